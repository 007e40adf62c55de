use selscan::prelude::*;

#[ssm_kernel]
fn scan(u: Tensor<B, L, D>, a: Tensor<D, D>, h: State<B, D>) -> Tensor<B, L, D> {
    h = a * h + u;
    h
}

fn main() {
    let _ = Scan::TEXT;
}
