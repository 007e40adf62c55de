use selscan::prelude::*;

#[ssm_kernel]
fn scan(
    u: Tensor<B, L, D>,
    z: Option<Tensor<B, L, D>>,
    half: Flag,
    h: State<B, D>,
) -> Tensor<B, L, D> {
    h = given(half, 0.5, 0.9) * h + u + v;
    given(z, h * silu(z), h)
}

fn main() -> Result<(), Error> {
    let scan = Scan::compile(&Cpu::new()?)?;
    let (u, mut h, mut y) = (Tensor::zeros(Dtype::F32, &[1, 4, 2])?, state()?, Tensor::zeros(Dtype::F32, &[1, 4, 2])?);
    let options = ScanOptions {
        z: Some(u.view()),
        half: true,
        last_h: Some(h.view_mut()),
        boundaries: Some((&[0, 0, 1, 1], &[1, 4])),
        ..Default::default()
    };
    scan.launch(ScanArgs {
        u: u.view(),
        out: y.view_mut(),
        options,
    })?;
    let options = ScanOptions::default();
    let args = ScanArgs {
        u: u.view(),
        out: y.view_mut(),
        options,
    };
    scan.step(args, ScanStates { h: h.view_mut() })?;
    println!("{} {}", Scan::TEXT, Scan::recurrence());
    scan.kernel().launch(Args::new())
}

fn state() -> Result<Tensor, Error> {
    Tensor::zeros(Dtype::F32, &[1, 2])
}
