//! Random numbers for a case of the oracle. In: the case, its recurrence, numbers in [−1, 1). Out: extents and inputs, with
//! initial states and packed sequences where the case has them.

use selscan_dsl::{Array, Extents, InputKind, Inputs, Recurrence};

use crate::generate::Case;

pub fn inputs(case: &Case, r: &Recurrence, number: &mut impl FnMut() -> f64) -> (Inputs, Extents) {
    let extent = |name: &str| case.extents[name];
    let axes = r.axes.iter();
    let extents = axes.map(|a| extent(a.alias_of.map_or(&a.name, |of| r.axis_name(of))));
    let extents = Extents(extents.collect());
    let mut random = |axes: &[_], complex: bool, scale: f64| {
        let mut x = Array::filled(&extents.shape(axes), complex, 0.0);
        x.data.iter_mut().for_each(|x| *x = number() * scale);
        x
    };
    let mut inputs = Inputs::new();
    for decl in &r.inputs {
        if decl.kind == InputKind::Tensor && !case.absent.contains(&decl.name) {
            inputs = inputs.with(&decl.name, random(&decl.axes, decl.complex, case.scale));
        }
    }
    for state in r.states.iter().filter(|_| case.initial) {
        inputs = inputs.with_initial(&state.name, random(&state.axes, state.complex, 1.0));
    }
    if case.packed {
        let axes: Vec<_> = r.batch_axis().into_iter().chain([r.time]).collect();
        let mut seq_idx = random(&axes, false, 1.0);
        let mut sequence = 0.0;
        for x in &mut seq_idx.data {
            sequence += f64::from(u8::from(*x > 0.5));
            *x = sequence;
        }
        inputs = inputs.with_seq_idx(seq_idx);
    }
    (inputs, extents)
}
