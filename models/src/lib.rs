//! What the field runs, written in selscan.
//!
//! [`CATALOGUE`] is the list that tests and benches walk: every model is a kernel text with its source. Beside it
//! the initialisations that these models start from: [`hippo`] and [`s4d`].
#![forbid(unsafe_code)]

mod attention;
mod delta;
mod h3;
pub mod hippo;
mod mamba;
mod mamba2;
mod mamba3;
mod rnn;
mod s4;
pub mod s4d;
mod sample;

use selscan_dsl::Recurrence;

/// A recurrence of the field.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Model {
    /// Its name, which is also the name of its kernel.
    pub name: &'static str,
    /// The paper and equation, or the code, that it is from.
    pub source: &'static str,
    /// The kernel's text.
    pub text: &'static str,
    /// Extents by axis for a test.
    pub small: &'static [(&'static str, usize)],
    /// Extents by axis of a call in practice, for benchmarks.
    pub typical: &'static [(&'static str, usize)],
    /// Inputs whose values lie elsewhere than in [−1, 1] for the states to stay bounded: name, least, greatest
    /// (of both halves, of complex inputs).
    pub ranges: &'static [(&'static str, f64, f64)],
}

impl Model {
    /// Its recurrence.
    ///
    /// # Errors
    /// None for a model of the catalogue, as the tests hold.
    pub fn recurrence(&self) -> Result<Recurrence, selscan_dsl::ParseError> {
        Recurrence::parse(self.text)
    }

    /// The range [least, greatest] of an input's values.
    #[must_use]
    pub fn range(&self, input: &str) -> (f64, f64) {
        let found = self.ranges.iter().find(|(name, _, _)| *name == input);
        found.map_or((-1.0, 1.0), |&(_, least, greatest)| (least, greatest))
    }
}

const FAMILIES: &[&[Model]] = &[
    mamba::MODELS,
    mamba2::MODELS,
    mamba3::MODELS,
    s4::MODELS,
    h3::MODELS,
    attention::MODELS,
    delta::MODELS,
    rnn::MODELS,
];

const COUNT: usize = {
    let (mut count, mut family) = (0, 0);
    while family < FAMILIES.len() {
        count += FAMILIES[family].len();
        family += 1;
    }
    count
};

/// Every model, family by family.
pub static CATALOGUE: &[Model] = &{
    let mut all = [FAMILIES[0][0]; COUNT];
    let (mut at, mut family) = (0, 0);
    while family < FAMILIES.len() {
        let mut i = 0;
        while i < FAMILIES[family].len() {
            all[at] = FAMILIES[family][i];
            at += 1;
            i += 1;
        }
        family += 1;
    }
    all
};

/// The model of that name.
#[must_use]
pub fn model(name: &str) -> Option<&'static Model> {
    CATALOGUE.iter().find(|m| m.name == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_model_parses_under_its_own_name() {
        for model in CATALOGUE {
            let r = model
                .recurrence()
                .unwrap_or_else(|e| panic!("{}: {e}", model.name));
            assert_eq!(r.name, model.name);
            assert!(!model.source.is_empty());
            for extents in [model.small, model.typical] {
                let named = |axis: &str| extents.iter().any(|(name, _)| *name == axis);
                for axis in &r.axes {
                    assert!(
                        axis.alias_of.is_some() || named(&axis.name),
                        "{} {}",
                        model.name,
                        axis.name
                    );
                }
                assert!(
                    extents.iter().all(|(name, _)| r.axis_named(name).is_some()),
                    "{}",
                    model.name
                );
            }
            let inputs = |name: &str| r.input_named(name).is_some();
            assert!(
                model.ranges.iter().all(|(name, _, _)| inputs(name)),
                "{}",
                model.name
            );
        }
    }

    #[test]
    fn names_differ_and_bodies_are_short() {
        for (i, model) in CATALOGUE.iter().enumerate() {
            assert!(
                CATALOGUE[..i].iter().all(|m| m.name != model.name),
                "{}",
                model.name
            );
            let body = model.text.lines().skip_while(|l| !l.ends_with('{')).skip(1);
            assert!(
                body.take_while(|l| *l != "}").count() <= 15,
                "{}",
                model.name
            );
        }
    }
}
