use selscan::prelude::*;

struct Model;

impl Model {
    #[ssm_kernel]
    fn scan(&self, u: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> {
        h = 0.5 * h + u;
        h
    }
}

fn main() {
    let _ = Model;
}
