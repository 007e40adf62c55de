//! What is printed is what is meant: random recurrences and the derived forms of kernels print as texts that
//! parse, and that mean the same to `eval`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{MAMBA, Random, add_output, inputs, recurrence, s4d, same_meaning};
use selscan_dsl::{InputId, Op, Recurrence, When, prepare, simplify};

/// With one more output that reads every input and state: a text may not have what nothing reads.
fn all_read(mut r: Recurrence) -> Recurrence {
    let mut sum = r.graph.constant(0.0);
    for i in 0..r.inputs.len() as u32 {
        let x = r.read_input(InputId(i));
        sum = r.graph.op(Op::Add, &[sum, x]);
    }
    for state in r.state_ids() {
        let x = r.read_state(state, When::Next);
        sum = r.graph.op(Op::Add, &[sum, x]);
    }
    add_output(&mut r, sum);
    r
}

/// Prints, parses, and compares the meanings.
fn survives(r: &Recurrence, random: &mut Random) {
    let mut r = r.clone();
    let several = r.outputs.len() > 1;
    for (i, output) in r.outputs.iter_mut().enumerate() {
        // The names that a text gives.
        output.name = if several {
            format!("out{i}")
        } else {
            "out".to_owned()
        };
    }
    let text = r.to_string();
    let again = Recurrence::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    assert_eq!(Recurrence::parse(&again.to_string()).unwrap(), again);
    same_meaning(&r, &again, &inputs(&r, random)).unwrap_or_else(|e| panic!("{text}\n{e}"));
}

#[test]
fn random_recurrences() {
    let mut random = Random(7);
    let mut survived = 0;
    for i in 0..400 {
        let r = all_read(recurrence(&mut random, i % 3 == 0));
        // What a graph can say and a text may not.
        let refusal = "does not vary over";
        match Recurrence::parse(&r.to_string()) {
            Err(e) if e.diagnostics.iter().all(|d| d.message.contains(refusal)) => {}
            _ => {
                survives(&r, &mut random);
                survived += 1;
            }
        }
    }
    assert!(survived > 50, "only {survived} could be said as a text");
}

#[test]
fn derived_recurrences() {
    let mut random = Random(11);
    let both = "
        #[ssm_kernel(bidirectional)]
        fn both(x: Complex<B, L, D>, a: Tensor<D>, h: ComplexState<B, D>) -> Complex<B, L, D> {
            h = exp(complex(a, -PI)) * h + delay(x, 2);
            conj(h) * x
        }";
    let dense = "
        #[ssm_kernel(N2 = N)]
        fn dense(x: Tensor<B, L>, a: Tensor<N, N2>, h: State<B, N>) -> Tensor<B, L> {
            h = tanh(sum::<N2>(a * alias::<N, N2>(h))) + push_back::<N>(h, x);
            max::<N>(h)
        }";
    for text in [MAMBA, &s4d("zoh"), &s4d("bilinear"), both, dense] {
        let r = Recurrence::parse(text).unwrap();
        for given in [true, false] {
            let r = r.specialize(&|_| given);
            survives(&r, &mut random);
            survives(&r.split_complex(), &mut random);
            survives(&r.with_boundaries(), &mut random);
            survives(&simplify(&r.split_complex()), &mut random);
            for part in r.split_directions() {
                survives(&part, &mut random);
            }
            for scan in prepare(&r, &|_| given, true) {
                survives(&scan.recurrence, &mut random);
            }
        }
    }
}
