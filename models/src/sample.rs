//! Inputs of a model for tests and benchmarks: reproducible, and in ranges where its states stay bounded.

use selscan_dsl::{Array, AxisId, Extents, InputKind, Inputs, Recurrence};

use crate::Model;

impl Model {
    /// The extents of all axes of the model's recurrence `r` from extents by name, such as [`Model::small`].
    ///
    /// An alias has the extent of its axis; an axis that is not named has the extent 1.
    #[must_use]
    pub fn extents(r: &Recurrence, named: &[(&str, usize)]) -> Extents {
        let of = |axis: AxisId| {
            let name = r.axis_name(r.canonical(axis));
            named
                .iter()
                .find(|(n, _)| *n == name)
                .map_or(1, |&(_, extent)| extent)
        };
        Extents((0..r.axes.len() as u8).map(|i| of(AxisId(i))).collect())
    }

    /// Random values for every required input and for the optional inputs and flags that `given` names.
    #[must_use]
    pub fn sample(
        &self,
        r: &Recurrence,
        extents: &Extents,
        given: &dyn Fn(&str) -> bool,
        seed: u64,
    ) -> Inputs {
        let mut random = Random(seed);
        let mut inputs = Inputs::new();
        for decl in &r.inputs {
            if decl.optional && !given(&decl.name) {
                continue;
            }
            inputs = match decl.kind {
                InputKind::Flag => inputs.with_flag(&decl.name),
                InputKind::Tensor => {
                    let mut x = Array::filled(&extents.shape(&decl.axes), decl.complex, 0.0);
                    let (least, greatest) = self.range(&decl.name);
                    for x in &mut x.data {
                        // As f32, so that the same inputs serve a kernel of any precision.
                        *x = f64::from((least + (greatest - least) * random.unit()) as f32);
                    }
                    inputs.with(&decl.name, x)
                }
            };
        }
        inputs
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    /// A number in [0, 1).
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / 2.0f64.powi(64)
    }
}
