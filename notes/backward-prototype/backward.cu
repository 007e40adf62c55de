// A backward run of the selective scan (B, D, L), N = 16, bf16, all flags, written by hand to see what its plan reaches:
// the kernel that order=staged is to generate for gradients. notes/progress.md has its figures; measure.py runs it.
//
//   block       TPB threads: TPB / 4 channels, four threads a channel with four states each; one tile of 16 steps at a time
//   before      each thread, for its own 4 steps: softplus, the gate, delta u; they meet in shared memory
//   replay      from the saved state; of HIST steps the states stay in registers
//   adjoint     the same steps backward; gradients by B and C are added up over the 8 channels of a warp (MODE 0: exchanges
//               that halve what a lane has left; MODE 1: tf32 products with ones on the tensor cores; MODE 2: not at all)
//   after       each thread, for its own steps: du, ddelta, dz; the block adds its warps' sums up, one part a block
typedef unsigned short u16;
__device__ __forceinline__ float ex2(float x){float y;asm("ex2.approx.ftz.f32 %0, %1;":"=f"(y):"f"(x));return y;}
__device__ __forceinline__ float lg2(float x){float y;asm("lg2.approx.ftz.f32 %0, %1;":"=f"(y):"f"(x));return y;}
__device__ __forceinline__ float rcp(float x){float y;asm("rcp.approx.ftz.f32 %0, %1;":"=f"(y):"f"(x));return y;}
__device__ __forceinline__ float lo(unsigned w){return __uint_as_float(w<<16);}
__device__ __forceinline__ float hi(unsigned w){return __uint_as_float(w&0xffff0000u);}
__device__ __forceinline__ unsigned both(float l,float h){unsigned w;asm("cvt.rn.bf16x2.f32 %0, %1, %2;":"=r"(w):"f"(h),"f"(l));return w;}
__device__ __forceinline__ void unpack(uint2 r,float*v){v[0]=lo(r.x);v[1]=hi(r.x);v[2]=lo(r.y);v[3]=hi(r.y);}
__device__ __forceinline__ uint2 pack(const float*v){return make_uint2(both(v[0],v[1]),both(v[2],v[3]));}
__device__ __forceinline__ uint2 ldg(const u16*p){uint2 r;asm volatile("ld.global.v2.u32 {%0,%1},[%2];":"=r"(r.x),"=r"(r.y):"l"(p));return r;}
__device__ __forceinline__ float4 ldg4(const float*p){float4 r;asm volatile("ld.global.v4.f32 {%0,%1,%2,%3},[%4];":"=f"(r.x),"=f"(r.y),"=f"(r.z),"=f"(r.w):"l"(p));return r;}
constexpr int W=4,K=16,R=4,N=16,NS=4;
constexpr int PIECE=K+4;          // row of an item in an exchange buffer
constexpr float LOG2E=1.44269504f, LN2=0.69314718f;
#ifndef TPB
#define TPB 128
#endif
#ifndef MINB
#define MINB 4
#endif
#ifndef FETCH
#define FETCH 1
#endif
#ifndef HIST
#define HIST 16
#endif
#ifndef MODE
#define MODE 0
#endif
constexpr int ITEMS=TPB/W, WARPS=TPB/32;
extern "C" __global__ void __launch_bounds__(TPB,MINB) bwd(
  const u16*__restrict__ u,const u16*__restrict__ delta,const float*__restrict__ A,const u16*__restrict__ Bm,const u16*__restrict__ Cm,
  const float*__restrict__ D,const u16*__restrict__ z,const float*__restrict__ bias,const u16*__restrict__ dout,const float*__restrict__ saved,
  u16*du,u16*ddelta,u16*dz,float*dA,float*dD,float*dbias,float*pB,float*pC,int nB,int nL,int nD){
  extern __shared__ __align__(16) float sm[];
  float* xdelta=sm;                       // [ITEMS][PIECE]
  float* xdu=xdelta+ITEMS*PIECE;
  float* xdy=xdu+ITEMS*PIECE;
  float* py=xdy+ITEMS*PIECE;              // [ITEMS][W][PIECE]
  float* pdu=py+ITEMS*W*PIECE;
  float* pdd=pdu+ITEMS*W*PIECE;
  float* tB=pdd+ITEMS*W*PIECE;            // [2][K][N]
  float* tC=tB+2*K*N;
  float* red=tC+2*K*N;                    // [WARPS][K][32]
  const int tid=threadIdx.x, warp=tid>>5, lane=tid&31;
#if MODE==0
  const int s=(lane&1)|((lane>>1)&2), c=((lane>>1)&1)|((lane>>2)&6);
#else
  const int s=lane>>3, c=lane&7;
#endif
  const int item=warp*8+c;
  const int blocksD=nD/ITEMS;
  const int b=blockIdx.x/blocksD, blk=blockIdx.x%blocksD;
  const int d=blk*ITEMS+item;
  const long long row=((long long)b*nD+d)*nL;
  const float4 a4=*(const float4*)(A+d*N+s*4);
  float a[4]={a4.x*LOG2E,a4.y*LOG2E,a4.z*LOG2E,a4.w*LOG2E};
  const float Dd=D[d], bb=bias[d];
  float g[4]={0,0,0,0}, gA[4]={0,0,0,0};
  float sD=0,sbias=0;
  const int nc=nL/K;
  uint2 ru,rd,rz,ro; float4 rh; uint2 rB,rC;
  // B and C tile: 16 n x 16 l, bf16: 2 tensors*16*16/4 per 8 bytes=128 loads of 8 bytes
  const int ln=(tid&63)>>2, lq=tid&3;
  auto fetch=[&](int ch){
    int t0=ch*K+s*R;
    ru=ldg(u+row+t0); rd=ldg(delta+row+t0); rz=ldg(z+row+t0); ro=ldg(dout+row+t0);
    rh=ldg4(saved+(((long long)ch*nB+b)*nD+d)*N+s*4);
    if(tid<128) rB=ldg((tid<64?Bm:Cm)+((long long)b*N+ln)*nL+ch*K+lq*4);
  };
  fetch(nc-1);
  for(int ch=nc-1;ch>=0;ch--){
    const uint2 ku=ru,kd=rd,kz=rz,ko=ro;
    const int half=(ch&1)*K*N;
    {
    float vu[4],vd[4],vz[4],vo[4],sg[4],dl[4],dy[4];
    unpack(ru,vu);unpack(rd,vd);unpack(rz,vz);unpack(ro,vo);
    if(tid<128){float q[4];unpack(rB,q);float*to=(tid<64?tB:tC)+half;
      for(int k=0;k<4;k++)to[(lq*4+k)*N+ln]=q[k];}
    float t4[4];
    for(int k=0;k<4;k++){
      float x=vd[k]+bb;
      float e=ex2(x*LOG2E);
      dl[k]=x>20.f?x:lg2(1.f+e)*LN2;
      sg[k]=rcp(1.f+ex2(-vz[k]*LOG2E));
      dy[k]=vo[k]*vz[k]*sg[k];
      t4[k]=dl[k]*vu[k];
    }
    *(float4*)(xdelta+item*PIECE+s*4)=make_float4(dl[0],dl[1],dl[2],dl[3]);
    *(float4*)(xdu+item*PIECE+s*4)=make_float4(t4[0],t4[1],t4[2],t4[3]);
    *(float4*)(xdy+item*PIECE+s*4)=make_float4(dy[0],dy[1],dy[2],dy[3]);
    }
    __syncthreads();
    float h[4]={rh.x,rh.y,rh.z,rh.w};
#if FETCH==0
    if(ch>0)fetch(ch-1);
#endif
    auto step=[&](int q,int k,const float*dv,const float*uv){
        float4 B4=*(float4*)(tB+half+(q*4+k)*N+s*4); float bv[4]={B4.x,B4.y,B4.z,B4.w};
        #pragma unroll
        for(int n=0;n<4;n++) h[n]=fmaf(ex2(dv[k]*a[n]),h[n],uv[k]*bv[n]);
    };
    auto rows=[&](int q,float*dv,float*uv){
      float4 D4=*(float4*)(xdelta+item*PIECE+q*4), U4=*(float4*)(xdu+item*PIECE+q*4);
      dv[0]=D4.x;dv[1]=D4.y;dv[2]=D4.z;dv[3]=D4.w;uv[0]=U4.x;uv[1]=U4.y;uv[2]=U4.z;uv[3]=U4.w;
    };
    float hist[HIST][4];
    float h0[4]={h[0],h[1],h[2],h[3]};
    #pragma unroll
    for(int q=0;q<(K-HIST)/4;q++){ float dv[4],uv[4]; rows(q,dv,uv);
      #pragma unroll
      for(int k=0;k<4;k++) step(q,k,dv,uv); }
    #pragma unroll 1
    for(int part=K/HIST-1;part>=0;part--){
    const int q0=part*HIST/4;
    if(HIST<K&&part<K/HIST-1){h[0]=h0[0];h[1]=h0[1];h[2]=h0[2];h[3]=h0[3];}
    #pragma unroll
    for(int q=0;q<HIST/4;q++){ float dv[4],uv[4]; rows(q0+q,dv,uv);
      #pragma unroll
      for(int k=0;k<4;k++){
        #pragma unroll
        for(int n=0;n<4;n++) hist[q*4+k][n]=h[n];
        step(q0+q,k,dv,uv); } }
#if MODE==1
    float acc[4]={0,0,0,0};
#endif
    #pragma unroll
    for(int qq=HIST/4-1;qq>=0;qq--){ const int q=q0+qq;
      float4 D4=*(float4*)(xdelta+item*PIECE+q*4), U4=*(float4*)(xdu+item*PIECE+q*4), Y4=*(float4*)(xdy+item*PIECE+q*4);
      float dv[4]={D4.x,D4.y,D4.z,D4.w},uv[4]={U4.x,U4.y,U4.z,U4.w},yv[4]={Y4.x,Y4.y,Y4.z,Y4.w};
      #pragma unroll
      for(int k=3;k>=0;k--){
        const int t=q*4+k,tt=qq*4+k;
        float4 B4=*(float4*)(tB+half+t*N+s*4),C4=*(float4*)(tC+half+t*N+s*4);
        float bv[4]={B4.x,B4.y,B4.z,B4.w},cv[4]={C4.x,C4.y,C4.z,C4.w};
        float vB[4],vC[4],sy=0,su=0,sd=0;
        #pragma unroll
        for(int n=0;n<4;n++){
          float hn=tt+1<HIST?hist[tt+1<HIST?tt+1:0][n]:h[n];
          float e=ex2(dv[k]*a[n]);
          float gg=fmaf(cv[n],yv[k],g[n]);
          sy=fmaf(cv[n],hn,sy);
          su=fmaf(gg,bv[n],su);
          g[n]=gg*e;
          float x=g[n]*hist[tt][n];
          gA[n]=fmaf(x,dv[k],gA[n]);
          sd=fmaf(x,a[n],sd);
          vB[n]=gg*uv[k]; vC[n]=yv[k]*hn;
        }
        py[(item*W+s)*PIECE+t]=sy; pdu[(item*W+s)*PIECE+t]=su; pdd[(item*W+s)*PIECE+t]=sd;
#if MODE==0
        // 8 values over the 8 channels: bits 1,3,4
        float v[8]={vB[0],vB[1],vB[2],vB[3],vC[0],vC[1],vC[2],vC[3]};
        bool b2=lane&16,b1=lane&8,b0=lane&2;
        float w4[4];
        #pragma unroll
        for(int i=0;i<4;i++){float own=b2?v[i+4]:v[i],oth=b2?v[i]:v[i+4];w4[i]=own+__shfl_xor_sync(~0u,oth,16);}
        float w2[2];
        #pragma unroll
        for(int i=0;i<2;i++){float own=b1?w4[i+2]:w4[i],oth=b1?w4[i]:w4[i+2];w2[i]=own+__shfl_xor_sync(~0u,oth,8);}
        float own=b0?w2[1]:w2[0],oth=b0?w2[0]:w2[1];float r=own+__shfl_xor_sync(~0u,oth,2);
        // value index: b2 -> B or C, b1,b0 -> n
        red[(warp*K+t)*32+((lane>>4)&1)*16+s*4+((lane>>3)&1)*2+((lane>>1)&1)]=r;
#elif MODE==1
        // two values per mma; rows: (t parity)*8 + value
        #pragma unroll
        for(int m=0;m<4;m++){
          float x0=m<2?vB[m*2]:vC[m*2-4],x1=m<2?vB[m*2+1]:vC[m*2-3];
          const int r0=m*2; // rows r0 (b0) and r0+1 (b1), in the upper or lower half by parity
          unsigned one=0x3f800000u;
          unsigned sel0=(lane>>2)==r0?one:0u, sel1=(lane>>2)==r0+1?one:0u;
          unsigned A0=(t&1)?0u:sel0,A1=(t&1)?sel0:0u,A2=(t&1)?0u:sel1,A3=(t&1)?sel1:0u;
          asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            :"+f"(acc[0]),"+f"(acc[1]),"+f"(acc[2]),"+f"(acc[3])
            :"r"(A0),"r"(A1),"r"(A2),"r"(A3),"r"(__float_as_uint(x0)),"r"(__float_as_uint(x1)));
        }
        if(!(t&1)){
          // c0,c1: row lane/4, cols 2*(lane%4)+{0,1} = channels' high bit; s = lane%4
          const int val=lane>>2, ss=lane&3;
          red[(warp*K+t)*32+(val>>2)*16+ss*4+(val&3)]=acc[0]+acc[1];
          red[(warp*K+t+1)*32+(val>>2)*16+ss*4+(val&3)]=acc[2]+acc[3];
          acc[0]=acc[1]=acc[2]=acc[3]=0;
        }
#elif MODE==2
        // nothing reduced over channels (lower bound): keep values alive
        float r=vB[0]+vB[1]+vB[2]+vB[3]+vC[0]+vC[1]+vC[2]+vC[3];
        red[(warp*K+t)*32+lane]=r;
#endif
      }
    }
    }
#if FETCH==1
    if(ch>0)fetch(ch-1);
#endif
    __syncthreads();
    // after
    float vu[4],vd[4],vz[4],vo[4],sg[4],dl[4],dy[4];
    unpack(ku,vu);unpack(kd,vd);unpack(kz,vz);unpack(ko,vo);
    {float4 q=*(float4*)(xdelta+item*PIECE+s*4);dl[0]=q.x;dl[1]=q.y;dl[2]=q.z;dl[3]=q.w;
     q=*(float4*)(xdy+item*PIECE+s*4);dy[0]=q.x;dy[1]=q.y;dy[2]=q.z;dy[3]=q.w;
     for(int k=0;k<4;k++)sg[k]=rcp(1.f+ex2(-vz[k]*LOG2E));}
    float fy[4]={0,0,0,0},fu[4]={0,0,0,0},fd[4]={0,0,0,0};
    #pragma unroll
    for(int w=0;w<W;w++){
      float4 p=*(float4*)(py+(item*W+w)*PIECE+s*4);fy[0]+=p.x;fy[1]+=p.y;fy[2]+=p.z;fy[3]+=p.w;
      float4 q=*(float4*)(pdu+(item*W+w)*PIECE+s*4);fu[0]+=q.x;fu[1]+=q.y;fu[2]+=q.z;fu[3]+=q.w;
      float4 r=*(float4*)(pdd+(item*W+w)*PIECE+s*4);fd[0]+=r.x;fd[1]+=r.y;fd[2]+=r.z;fd[3]+=r.w;
    }
    float o1[4],o2[4],o3[4];
    for(int k=0;k<4;k++){
      o1[k]=dy[k]*Dd+dl[k]*fu[k];
      float x=vd[k]+bb;
      float dd=fd[k]*LN2+vu[k]*fu[k];
      dd=x>20.f?dd:dd*rcp(1.f+ex2(-x*LOG2E));
      o2[k]=dd; sbias+=dd; sD+=dy[k]*vu[k];
      float q=vo[k]*sg[k]*(fy[k]+vu[k]*Dd);
      o3[k]=q+q*vz[k]*(1.f-sg[k]);
    }
    const long long at=row+ch*K+s*R;
    *(uint2*)(du+at)=pack(o1);*(uint2*)(ddelta+at)=pack(o2);*(uint2*)(dz+at)=pack(o3);
    // K*32 values summed over warps
    #pragma unroll
    for(int i=0;i<K*32/4;i+=TPB){
      int j=i+tid; if(K*32/4%TPB==0||j<K*32/4){
      float4 sum=make_float4(0,0,0,0);
      #pragma unroll
      for(int w=0;w<WARPS;w++){float4 p=*(float4*)(red+w*K*32+j*4);sum.x+=p.x;sum.y+=p.y;sum.z+=p.z;sum.w+=p.w;}
      int t=j/8,rest=j%8; float*to=rest<4?pB:pC;
      *(float4*)(to+(((long long)blk*nB+b)*nL+ch*K+t)*N+(rest&3)*4)=sum;}
    }
  }
  *(float4*)(dA+((long long)b*nD+d)*N+s*4)=make_float4(gA[0],gA[1],gA[2],gA[3]);
  // sums over s
#if MODE==0
  sD+=__shfl_xor_sync(~0u,sD,1);sD+=__shfl_xor_sync(~0u,sD,4);
  sbias+=__shfl_xor_sync(~0u,sbias,1);sbias+=__shfl_xor_sync(~0u,sbias,4);
#else
  sD+=__shfl_xor_sync(~0u,sD,8);sD+=__shfl_xor_sync(~0u,sD,16);
  sbias+=__shfl_xor_sync(~0u,sbias,8);sbias+=__shfl_xor_sync(~0u,sbias,16);
#endif
  if(s==0){dD[b*nD+d]=sD;dbias[b*nD+d]=sbias;}
}
