use selscan::prelude::*;

#[ssm_kernel]
fn scan(
    u: Tensor<B, L, D>,
    z: Option<Tensor<B, L, D>>,
    half: Flag,
    h: State<B, D>,
) -> Tensor<B, L, D> {
    h = given(half, 0.5, 0.9) * h + u;
    given(z, h * silu(z), h)
}

fn main() -> Result<(), Error> {
    let scan = Scan::compile(&Cpu::new()?)?;
    let (u, mut h, mut y) = (Tensor::zeros(Dtype::F32, &[1, 4, 2])?, state()?, Tensor::zeros(Dtype::F32, &[1, 4, 2])?);
    scan.launch(ScanArgs {
        u: u.view(),
        out: y.view_mut(),
        options: ScanOptions {
            half: 0.5,
            last_h: Some(h.view_mut()),
            ..Default::default()
        },
    })
}

fn state() -> Result<Tensor, Error> {
    Tensor::zeros(Dtype::F32, &[1, 2])
}
