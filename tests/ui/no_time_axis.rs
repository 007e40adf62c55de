use selscan::prelude::*;

#[ssm_kernel]
fn scan(u: Tensor<B, T, D>, a: Tensor<D, N>, h: State<B, D, N>) -> Tensor<B, T, D> {
    h = exp(a) * h + u;
    sum::<N>(h)
}

fn main() {
    let _ = Scan::TEXT;
}
