use selscan::prelude::*;

#[ssm_kernel]
fn scan<T>(
    u: Tensor<B, L, D>,
    a: Tensor<D, N>,
    c: Tensor<B, L, N>,
    h: State<B, D, N>,
) -> Tensor<B, L, D> {
    h = exp(a) * h + u;
    sum::<N>(c * h)
}

fn main() {
    let _ = Scan::TEXT;
}
