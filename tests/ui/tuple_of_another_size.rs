use selscan::prelude::*;

#[ssm_kernel]
fn scan(
    u: Tensor<B, L, D>,
    a: Tensor<D, N>,
    c: Tensor<B, L, N>,
    h: State<B, D, N>,
) -> Tensor<B, L, D> {
    let (a_bar, b_bar, c_bar) = discretize::zoh(u, a, 1);
    h = a_bar * h + b_bar + c_bar;
    sum::<N>(c * h)
}

fn main() {
    let _ = Scan::TEXT;
}
