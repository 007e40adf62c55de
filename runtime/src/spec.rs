//! What a launch fixes about the code: which inputs and states it passes, and how they lie in memory.
//!
//! In: a recurrence and choices by name (or a launch's arguments). Out: [`Spec`], a key of the kernel cache; its text is part
//! of the key of tuned schedules.

use std::fmt::{self, Write};

use selscan_codegen::{Dtype, Options, Ty};
use selscan_dsl::{InputKind, Recurrence};

use crate::error::{Error, nearest};

/// The specialisation of a kernel that a launch needs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Spec {
    /// By input: the type of the tensor passed; for a flag that is given, any type.
    pub inputs: Vec<Option<Dtype>>,
    /// By state: the type of the initial state, if passed.
    pub initial: Vec<Option<Dtype>>,
    /// By state: the type of the last state, if wanted; that of the initial state, if both.
    pub last: Vec<Option<Dtype>>,
    /// By output: its type.
    pub outputs: Vec<Dtype>,
    /// Whether sequences are packed.
    pub boundaries: bool,
    /// Steps between states that are saved for a gradient; 0: none are.
    pub save: u32,
}

impl Spec {
    /// All required inputs and all outputs of one type; no optional input, flag, state or boundary.
    #[must_use]
    pub fn new(recurrence: &Recurrence, dtype: Dtype) -> Spec {
        let required = |i: &selscan_dsl::InputDecl| {
            (!i.optional && i.kind == InputKind::Tensor).then_some(dtype)
        };
        Spec {
            inputs: recurrence.inputs.iter().map(required).collect(),
            initial: vec![None; recurrence.states.len()],
            last: vec![None; recurrence.states.len()],
            outputs: vec![dtype; recurrence.outputs.len()],
            boundaries: false,
            save: 0,
        }
    }

    /// With an input (or a flag, whose type is ignored).
    ///
    /// # Errors
    /// If the recurrence has no such input.
    pub fn with_input(
        mut self,
        recurrence: &Recurrence,
        name: &str,
        dtype: Dtype,
    ) -> Result<Spec, Error> {
        self.inputs[input(recurrence, name)?] = Some(dtype);
        Ok(self)
    }

    /// With a state that is passed (`initial`), wanted (`last`) or both.
    ///
    /// # Errors
    /// If the recurrence has no such state.
    pub fn with_state(
        mut self,
        recurrence: &Recurrence,
        name: &str,
        dtype: Dtype,
        initial: bool,
        last: bool,
    ) -> Result<Spec, Error> {
        let state = state(recurrence, name, "state")?;
        self.initial[state] = initial.then_some(dtype);
        self.last[state] = last.then_some(dtype);
        Ok(self)
    }

    /// With packed sequences.
    #[must_use]
    pub fn with_boundaries(mut self) -> Spec {
        self.boundaries = true;
        self
    }

    /// The precision of arithmetic: f64 if any tensor is f64, else f32.
    #[must_use]
    pub fn compute(&self) -> Ty {
        let passed = [&self.inputs, &self.initial, &self.last];
        let mut all = passed.into_iter().flatten().flatten().chain(&self.outputs);
        if all.any(|&d| d == Dtype::F64) {
            Ty::F64
        } else {
            Ty::F32
        }
    }

    /// Whether the input or flag of that name is given.
    #[must_use]
    pub fn is_given(&self, recurrence: &Recurrence, name: &str) -> bool {
        let input = recurrence.input_named(name);
        input.is_some_and(|i| self.inputs[i.0 as usize].is_some())
    }

    /// What plans need to know of it. Inputs that only a stage has (carried values, boundaries) are of the compute type.
    #[must_use]
    pub fn options(&self, recurrence: &Recurrence) -> Options {
        let mut options = Options {
            compute: self.compute(),
            save: self.save,
            ..Options::default()
        };
        for (decl, dtype) in recurrence.inputs.iter().zip(&self.inputs) {
            if let (InputKind::Tensor, Some(dtype)) = (decl.kind, dtype) {
                options.storage.insert(decl.name.clone(), *dtype);
            }
        }
        for (s, decl) in recurrence.states.iter().enumerate() {
            if let Some(dtype) = self.initial[s].or(self.last[s]) {
                options.storage.insert(decl.name.clone(), dtype);
            }
            if self.initial[s].is_some() {
                options.initial.insert(decl.name.clone());
            }
            if self.last[s].is_some() {
                options.last.insert(decl.name.clone());
            }
        }
        for (decl, dtype) in recurrence.outputs.iter().zip(&self.outputs) {
            options.storage.insert(decl.name.clone(), *dtype);
        }
        options
    }

    /// Its text, for example `u: f32, delta_softplus, initial h: f32, out: f32, boundaries`.
    #[must_use]
    pub fn show(&self, recurrence: &Recurrence) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = self.write(recurrence, &mut text);
        text
    }

    fn write(&self, recurrence: &Recurrence, f: &mut impl Write) -> fmt::Result {
        for (decl, dtype) in recurrence.inputs.iter().zip(&self.inputs) {
            match (decl.kind, dtype) {
                (InputKind::Flag, Some(_)) => write!(f, "{}, ", decl.name)?,
                (InputKind::Tensor, Some(dtype)) => write!(f, "{}: {dtype}, ", decl.name)?,
                (_, None) => {}
            }
        }
        for (what, given) in [("initial", &self.initial), ("last", &self.last)] {
            for (decl, dtype) in recurrence.states.iter().zip(given) {
                if let Some(dtype) = dtype {
                    write!(f, "{what} {}: {dtype}, ", decl.name)?;
                }
            }
        }
        for (i, (decl, dtype)) in recurrence.outputs.iter().zip(&self.outputs).enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {dtype}", decl.name)?;
        }
        if self.save > 0 {
            write!(f, ", save {}", self.save)?;
        }
        f.write_str(if self.boundaries { ", boundaries" } else { "" })
    }
}

fn unknown<'a>(
    recurrence: &Recurrence,
    what: &'static str,
    name: &str,
    known: impl Iterator<Item = &'a String> + Clone,
) -> Error {
    Error::Unknown {
        kernel: recurrence.name.clone(),
        what,
        name: name.to_owned(),
        nearest: nearest(name, known.clone().map(String::as_str)),
        known: known.cloned().collect(),
    }
}

/// The position of an input.
pub(crate) fn input(r: &Recurrence, name: &str) -> Result<usize, Error> {
    let at = r.input_named(name).map(|i| i.0 as usize);
    at.ok_or_else(|| unknown(r, "input", name, r.inputs.iter().map(|i| &i.name)))
}

/// The position of a state.
pub(crate) fn state(r: &Recurrence, name: &str, what: &'static str) -> Result<usize, Error> {
    let at = r.state_named(name).map(|s| s.0 as usize);
    at.ok_or_else(|| unknown(r, what, name, r.states.iter().map(|s| &s.name)))
}

/// The position of an output.
pub(crate) fn output(r: &Recurrence, name: &str) -> Result<usize, Error> {
    let at = r.outputs.iter().position(|o| o.name == name);
    at.ok_or_else(|| unknown(r, "output", name, r.outputs.iter().map(|o| &o.name)))
}
