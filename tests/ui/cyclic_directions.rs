use selscan::prelude::*;

#[ssm_kernel]
fn scan(u: Tensor<B, L, D>, f: State<B, D>, #[reverse] b: State<B, D>) -> Tensor<B, L, D> {
    f = 0.5 * f + b;
    b = 0.5 * b + f + u;
    b
}

fn main() {
    let _ = Scan::TEXT;
}
