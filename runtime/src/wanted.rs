//! What a backward run is asked for, every name and shape checked.
//!
//! In: arguments, saved states, [`Gradients`]. Out: [`Wanted`], on which the adjoint depends; or what is wrong, before anything
//! is written.

use selscan_dsl::{AxisId, InputKind};

use crate::args::Args;
use crate::call::axis_names;
use crate::checkpoints::Checkpoints;
use crate::error::Error;
use crate::gradient::Gradients;
use crate::kernel::Kernel;
use crate::spec;

/// What a backward run's recurrence depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub given: Vec<bool>,
    pub boundaries: bool,
    pub outputs: Vec<bool>,
    pub by: Vec<String>,
}

/// A tensor of a backward run: what it is to the caller, its name, the axes and shape that it has to have.
struct Shaped<'s> {
    what: &'static str,
    name: &'s str,
    axes: &'s [AxisId],
    complex: bool,
    found: &'s [usize],
}

impl Kernel {
    /// What is asked for, every name and shape checked.
    pub(crate) fn wanted(
        &self,
        args: &Args<'_>,
        checkpoints: &Checkpoints,
        gradients: &Gradients<'_>,
    ) -> Result<Wanted, Error> {
        let r = self.recurrence();
        let mut given = vec![false; r.inputs.len()];
        let mut shaped = Vec::new();
        for (name, tensor) in &args.inputs {
            let i = spec::input(r, name)?;
            given[i] = true;
            let decl = &r.inputs[i];
            shaped.push(Shaped {
                what: "input",
                name,
                axes: &decl.axes,
                complex: decl.complex,
                found: tensor.shape(),
            });
        }
        for name in &args.flags {
            given[spec::input(r, name)?] = true;
        }
        let earlier: Vec<bool> = checkpoints
            .spec
            .inputs
            .iter()
            .map(Option::is_some)
            .collect();
        let boundaries = args.boundaries.is_some();
        if given != earlier || boundaries != checkpoints.spec.boundaries {
            let names = |given: &[bool]| {
                let names = r.inputs.iter().zip(given).filter(|(_, g)| **g);
                names
                    .map(|(i, _)| format!("`{}`", i.name))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            return Err(Error::Gradient {
                kernel: r.name.clone(),
                why: format!(
                    "the forward run was given {}{}, the backward run {}{}; give both the same",
                    names(&earlier),
                    if checkpoints.spec.boundaries {
                        " and boundaries"
                    } else {
                        ""
                    },
                    names(&given),
                    if boundaries { " and boundaries" } else { "" },
                ),
            });
        }
        if let Some(boundaries) = &args.boundaries {
            let prepared = self.prepared(&checkpoints.spec)?;
            boundaries.check(r, &prepared.specialized, &checkpoints.extents)?;
        }
        let mut outputs = vec![false; r.outputs.len()];
        for (name, tensor) in &gradients.cotangents {
            let k = spec::output(r, name)?;
            once(&mut outputs[k], "cotangent of the output", name)?;
            let decl = &r.outputs[k];
            shaped.push(Shaped {
                what: "cotangent of the output",
                name,
                axes: &decl.axes,
                complex: decl.complex,
                found: tensor.shape(),
            });
        }
        let mut by = Vec::new();
        let mut asked = vec![false; r.inputs.len()];
        for (name, tensor) in &gradients.gradients {
            let i = spec::input(r, name)?;
            let decl = &r.inputs[i];
            if decl.kind == InputKind::Flag || !given[i] {
                return Err(Error::Gradient {
                    kernel: r.name.clone(),
                    why: format!(
                        "`{name}` was not given as a tensor, so there is no gradient by it; leave it out"
                    ),
                });
            }
            once(&mut asked[i], "gradient by the input", name)?;
            by.push((*name).to_owned());
            shaped.push(Shaped {
                what: "gradient by the input",
                name,
                axes: &decl.axes,
                complex: decl.complex,
                found: tensor.shape(),
            });
        }
        let last = gradients
            .last
            .iter()
            .map(|(name, t)| ("cotangent of the last state", *name, t.shape()));
        let initial = gradients
            .initial
            .iter()
            .map(|(name, t)| ("gradient by the initial state", *name, t.shape()));
        let mut seen = vec![[false; 2]; r.states.len()];
        for (what, name, found) in last.chain(initial) {
            let s = spec::state(r, name, "state")?;
            let decl = &r.states[s];
            let is_gradient = what.starts_with("gradient");
            once(&mut seen[s][usize::from(is_gradient)], what, name)?;
            if is_gradient {
                by.push(name.to_owned());
            }
            shaped.push(Shaped {
                what,
                name,
                axes: &decl.axes,
                complex: decl.complex,
                found,
            });
        }
        for t in shaped {
            let mut shape = checkpoints.extents.shape(t.axes);
            shape.extend(t.complex.then_some(2));
            if shape != t.found {
                return Err(Error::Extents {
                    what: t.what,
                    name: t.name.to_owned(),
                    axes: axis_names(r, t.axes),
                    wanted: shape,
                    found: t.found.to_vec(),
                });
            }
        }
        if by.is_empty() {
            return Err(Error::Gradient {
                kernel: r.name.clone(),
                why: "nothing was asked for; add `.gradient(\"…\", …)` or `.initial_gradient(\"…\", …)`".to_owned(),
            });
        }
        Ok(Wanted {
            given,
            boundaries,
            outputs,
            by,
        })
    }
}

fn once(seen: &mut bool, what: &'static str, name: &str) -> Result<(), Error> {
    match std::mem::replace(seen, true) {
        false => Ok(()),
        true => Err(Error::Twice {
            what,
            name: name.to_owned(),
        }),
    }
}
