"""Checks backward.cu against autograd in f64 and times it. Needs CuPy, PyTorch and a GPU; run from the repository's root."""
import statistics

import cupy as cp
import torch

src=open('notes/backward-prototype/backward.cu').read()
def build(T,MINB,MODE,FETCH,HIST):
    m=cp.RawModule(code=src,options=(f'-DTPB={T}',f'-DMINB={MINB}',f'-DMODE={MODE}',f'-DFETCH={FETCH}',f'-DHIST={HIST}','-std=c++17',),backend='nvrtc')
    return m.get_function('bwd')
def smem(T):
    ITEMS=T//4;W=4;PIECE=20
    return 4*(3*ITEMS*PIECE+3*ITEMS*W*PIECE+4*16*16+T//32*16*32)
K=16
def make(B,L,D,N=16,seed=0):
    g=torch.Generator(device='cuda').manual_seed(seed)
    r=lambda *s:torch.randn(*s,device='cuda',generator=g)
    bf=lambda x:x.to(torch.bfloat16)
    t=dict(u=bf(r(B,D,L)),delta=bf(r(B,D,L)*0.5-3),A=-(torch.arange(1,N+1,device='cuda').float().repeat(D,1)),Bm=bf(r(B,N,L)),Cm=bf(r(B,N,L)),
      D=r(D),z=bf(r(B,D,L)),bias=r(D)*0.1,dout=bf(r(B,D,L)))
    return t
def run(f,T,t,saved,out):
    B,D,L=t['u'].shape
    args=[t[k].data_ptr() for k in('u','delta','A','Bm','Cm','D','z','bias','dout')]+[saved.data_ptr()]+[out[k].data_ptr() for k in('du','ddelta','dz','dA','dD','dbias','pB','pC')]+[cp.int32(B),cp.int32(L),cp.int32(D)]
    f.max_dynamic_shared_size_bytes=smem(T)
    f((B*D//(T//4),),(T,),tuple(args),shared_mem=smem(T))
def outs(B,L,D,T,N=16):
    e=lambda *s,dt=torch.float32:torch.full(s,float('nan'),device='cuda',dtype=dt)
    bf=torch.bfloat16
    P=D//(T//4)
    return dict(du=e(B,D,L,dt=bf),ddelta=e(B,D,L,dt=bf),dz=e(B,D,L,dt=bf),dA=e(B,D,N),dD=e(B,D),dbias=e(B,D),pB=e(P,B,L,N),pC=e(P,B,L,N))
def ref(t):
    x={k:v.double().clone().requires_grad_() for k,v in t.items() if k!='dout'}
    dl=torch.nn.functional.softplus(x['delta']+x['bias'][:,None])
    B,D,L=dl.shape;h=torch.zeros(B,D,16,device='cuda',dtype=torch.double);ys=[];sv=[]
    for i in range(L):
        if i%K==0: sv.append(h.detach())
        h=torch.exp(dl[:,:,i,None]*x['A'])*h+(dl[:,:,i]*x['u'][:,:,i])[:,:,None]*x['Bm'][:,None,:,i]
        ys.append((h*x['Cm'][:,None,:,i]).sum(-1)+x['D']*x['u'][:,:,i])
    y=torch.stack(ys,-1)*torch.nn.functional.silu(x['z'])
    y.backward(t['dout'].double())
    return {k:v.grad for k,v in x.items()},torch.stack(sv).float().contiguous()
def check(f,T):
    t=make(2,64,128); gr,sv=ref(t); o=outs(2,64,128,T); run(f,T,t,sv,o); torch.cuda.synchronize()
    e=lambda a,b:((a.double()-b).norm()/b.norm()).item()
    return [f'{n}={e(a,gr[k]):.1e}' for n,a,k in(('du',o['du'],'u'),('dd',o['ddelta'],'delta'),('dz',o['dz'],'z'),('dA',o['dA'].sum(0),'A'),('dD',o['dD'].sum(0),'D'),('db',o['dbias'].sum(0),'bias'),('dB',o['pB'].sum(0).transpose(1,2),'Bm'),('dC',o['pC'].sum(0).transpose(1,2),'Cm'))]
def timeit(f,T,shape,n=7):
    B,L,D=shape
    ts=[make(B,L,D,seed=i) for i in range(2)]; o=[outs(B,L,D,T) for i in range(2)]; sv=torch.randn(L//K,B,D,16,device='cuda')
    ev=lambda:torch.cuda.Event(enable_timing=True)
    st=torch.cuda.current_stream(); xs=[]
    with cp.cuda.ExternalStream(st.cuda_stream):
      for i in range(3):run(f,T,ts[i%2],sv,o[i%2])
      for i in range(n):
        a,b=ev(),ev();a.record();run(f,T,ts[i%2],sv,o[i%2]);b.record();torch.cuda.synchronize();xs.append(a.elapsed_time(b))
    return statistics.median(xs)
variants=[(128,4,0,1,16),(128,4,1,1,16),(128,3,0,1,16),(128,3,1,1,16),(128,4,0,1,8),(128,4,1,1,8),(128,4,0,0,8),(128,4,1,0,8),(256,2,0,1,8),(256,2,1,1,8),(128,5,0,1,8),(128,5,1,1,8),(128,4,2,1,8)]
print(torch.cuda.get_device_name())
for v in variants:
    T=v[0]
    try:
        f=build(*v); at=f.attributes
        print(v,'regs',at['num_regs'],'local',at['local_size_bytes'],*check(f,T))
        print('    ',[f'{s}: {timeit(f,T,s):.3f}' for s in((8,2048,2048),(2,4096,5120),(64,512,2048),(1,4096,2048))],flush=True)
    except Exception as e: print(v,'failed',repr(e)[:300])
