//! Inputs of a model of the catalogue, with its options and without.

use selscan_dsl::{Array, Extents, Inputs, Recurrence};
use selscan_models::Model;

/// Inputs of a model; `kind` says which options they have: 0 none, 1 all, 2 all and initial states, 3 all and packed
/// sequences.
pub fn inputs(model: &Model, r: &Recurrence, extents: &Extents, kind: u64) -> Inputs {
    let mut inputs = model.sample(r, extents, &|_| kind > 0, kind);
    if kind == 2 {
        for state in &r.states {
            let mut x = Array::filled(&extents.shape(&state.axes), state.complex, 0.0);
            for (i, x) in x.data.iter_mut().enumerate() {
                *x = f64::from(i as u32 % 7) / 8.0 - 0.375;
            }
            inputs = inputs.with_initial(&state.name, x);
        }
    }
    if kind == 3 {
        let axes: Vec<_> = r.batch_axis().into_iter().chain([r.time]).collect();
        let shape = extents.shape(&axes);
        let tokens = shape.iter().product::<usize>();
        let sequence = |i: usize| [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0][i % 7] + 4.0 * (i / 7) as f64;
        inputs = inputs.with_seq_idx(Array::real(&shape, (0..tokens).map(sequence).collect()));
    }
    inputs
}
