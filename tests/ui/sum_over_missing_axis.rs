use selscan::prelude::*;

#[ssm_kernel]
fn scan(
    u: Tensor<B, L, D>,
    a: Tensor<D, N>,
    c: Tensor<B, L, N>,
    h: State<B, D>,
) -> Tensor<B, L, D> {
    h = exp(sum::<N>(a)) * h + u;
    sum::<N>(h) * sum::<N>(c)
}

fn main() {
    let _ = Scan::TEXT;
}
