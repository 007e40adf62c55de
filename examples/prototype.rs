//! A recurrence that nobody has written a kernel for, from text to numbers while the program runs: a selective scan
//! that forgets faster the more is about to come.
//!
//! `cargo run --example prototype`

use selscan::prelude::*;

const TEXT: &str = "
#[ssm_kernel]
fn look_ahead(
    u: Tensor<B, L, D>, a: Tensor<D, N>, b: Tensor<B, L, N>, c: Tensor<B, L, N>,
    #[reverse] coming: State<B, D>, h: State<B, D, N>,
) -> Tensor<B, L, D> {
    coming = 0.9 * coming + 0.1 * abs(u);      // runs from the last step to the first
    h = exp(-coming * exp(a)) * h + b * u;     // reads what is to come
    sum::<N>(c * h)
}
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let recurrence = Recurrence::parse(TEXT)?;
    let wave = |shape: &[usize], speed: f64| {
        let count = shape.iter().product();
        Array::real(
            shape,
            (0..count).map(|i| (i as f64 * speed).sin()).collect(),
        )
    };
    let inputs = Inputs::new()
        .with("u", wave(&[1, 1000, 8], 0.7))
        .with("a", wave(&[8, 4], 1.3))
        .with("b", wave(&[1, 1000, 4], 0.3))
        .with("c", wave(&[1, 1000, 4], 1.1));

    let kernel = Cpu::new()?.kernel(recurrence);
    let results = kernel.run(&OwnedArgs::from_inputs(&inputs, Dtype::F64)?)?;
    let meaning = eval(kernel.recurrence(), &inputs)?;
    let (y, y64) = (
        results.outputs["out"].to_f64(),
        &meaning.tensors["out"].data,
    );
    let worst = y
        .iter()
        .zip(y64)
        .map(|(y, y64)| (y - y64).abs())
        .fold(0.0, f64::max);
    println!(
        "{} numbers, off by at most {worst:.1e} from their meaning",
        y.len()
    );
    Ok(())
}
