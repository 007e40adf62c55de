//! Arguments resolved against a recurrence: every name known, every required tensor there, no memory shared.
//!
//! In: [`Args`]. Out: [`Call`], tensors by position; its [`Spec`]; and the extents that the shapes make.

use std::ops::Range;

use selscan_codegen::Dtype;
use selscan_dsl::shape::bind_extents;
use selscan_dsl::{AxisId, Extents, InputKind, Recurrence};

use crate::args::{Args, Boundaries};
use crate::buffer::{TensorMut, TensorRef};
use crate::error::Error;
use crate::place::Place;
use crate::spec::{self, Spec};

/// The arguments of a launch by position.
pub(crate) struct Call<'a> {
    pub spec: Spec,
    pub inputs: Vec<Option<TensorRef<'a>>>,
    pub states: Vec<StateArgs<'a>>,
    pub outputs: Vec<TensorMut<'a>>,
    pub boundaries: Option<Boundaries<'a>>,
}

/// What a launch passes of one state.
pub(crate) enum StateArgs<'a> {
    /// The state before, the state after, either or none.
    Apart(Option<TensorRef<'a>>, Option<TensorMut<'a>>),
    /// The state before, which becomes the state after.
    InPlace(TensorMut<'a>),
}

impl<'a> Call<'a> {
    /// Every name of `args` in `r`.
    pub(crate) fn resolve(r: &Recurrence, args: Args<'a>) -> Result<Call<'a>, Error> {
        check_memory(&args)?;
        let mut spec = Spec::new(r, Dtype::F32);
        spec.inputs.fill(None);
        spec.boundaries = args.boundaries.is_some();
        let kind = |i: usize, wanted: InputKind| {
            let decl = &r.inputs[i];
            let name = &decl.name;
            let (is, method) = match decl.kind {
                InputKind::Flag => ("flag", format!("flag(\"{name}\")")),
                InputKind::Tensor => ("tensor", format!("input(\"{name}\", …)")),
            };
            if decl.kind == wanted {
                return Ok(());
            }
            Err(Error::Kind {
                kernel: r.name.clone(),
                name: name.clone(),
                is,
                method,
            })
        };
        let mut inputs: Vec<_> = r.inputs.iter().map(|_| None).collect();
        for (name, tensor) in args.inputs {
            let i = spec::input(r, name)?;
            kind(i, InputKind::Tensor)?;
            spec.inputs[i] = Some(tensor.dtype());
            put(&mut inputs[i], tensor, "input", name)?;
        }
        for name in args.flags {
            let i = spec::input(r, name)?;
            kind(i, InputKind::Flag)?;
            put(&mut spec.inputs[i], Dtype::F32, "flag", name)?;
        }
        let missing = r.inputs.iter().enumerate().find(|(i, decl)| {
            !decl.optional && decl.kind == InputKind::Tensor && spec.inputs[*i].is_none()
        });
        if let Some((_, decl)) = missing {
            return Err(missing_tensor(
                r,
                "input",
                &decl.name,
                &decl.axes,
                decl.complex,
            ));
        }
        let states = states(r, &mut spec, args.initial, args.last, args.in_place)?;
        let mut outputs: Vec<_> = r.outputs.iter().map(|_| None).collect();
        for (name, tensor) in args.outputs {
            let i = spec::output(r, name)?;
            spec.outputs[i] = tensor.dtype();
            put(&mut outputs[i], tensor, "output", name)?;
        }
        let there = |(tensor, decl): (Option<_>, &selscan_dsl::OutputDecl)| {
            tensor.ok_or_else(|| missing_tensor(r, "output", &decl.name, &decl.axes, decl.complex))
        };
        Ok(Call {
            outputs: outputs
                .into_iter()
                .zip(&r.outputs)
                .map(there)
                .collect::<Result<_, _>>()?,
            boundaries: args.boundaries,
            spec,
            inputs,
            states,
        })
    }

    /// The extents that the shapes make, every shape checked. `specialized` is `r` with this call's inputs.
    pub(crate) fn extents(
        &self,
        r: &Recurrence,
        specialized: &Recurrence,
    ) -> Result<Extents, Error> {
        let mut shapes = Vec::new();
        for (decl, tensor) in r.inputs.iter().zip(&self.inputs) {
            if let Some(tensor) = tensor {
                let shape = points(
                    r,
                    "input",
                    &decl.name,
                    &decl.axes,
                    decl.complex,
                    tensor.shape(),
                )?;
                shapes.push((decl.name.as_str(), shape));
            }
        }
        let mut lasts = Vec::new();
        for (decl, state) in r.states.iter().zip(&self.states) {
            let points = |what, shape| points(r, what, &decl.name, &decl.axes, decl.complex, shape);
            match state {
                StateArgs::InPlace(state) => {
                    shapes.push((&decl.name, points("state", state.shape())?));
                }
                StateArgs::Apart(initial, last) => {
                    if let Some(initial) = initial {
                        shapes.push((&decl.name, points("initial state", initial.shape())?));
                    }
                    if let Some(last) = last {
                        let shape = points("last state", last.shape())?;
                        if initial.is_some() {
                            lasts.push((decl, shape));
                        } else {
                            shapes.push((&decl.name, shape));
                        }
                    }
                }
            }
        }
        for (decl, tensor) in r.outputs.iter().zip(&self.outputs) {
            let shape = points(
                r,
                "output",
                &decl.name,
                &decl.axes,
                decl.complex,
                tensor.shape(),
            )?;
            shapes.push((&decl.name, shape));
        }
        let extents = bind_extents(specialized, shapes).map_err(|source| Error::Shape {
            kernel: r.name.clone(),
            source: Box::new(source),
        })?;
        for (decl, shape) in lasts {
            same(r, "last state", &decl.name, &decl.axes, &extents, shape)?;
        }
        if let Some(boundaries) = &self.boundaries {
            boundaries.check(r, specialized, &extents)?;
        }
        Ok(extents)
    }
}

impl Boundaries<'_> {
    /// Whether there is one for each step of each row.
    pub fn check(
        &self,
        r: &Recurrence,
        specialized: &Recurrence,
        extents: &Extents,
    ) -> Result<(), Error> {
        let axes: Vec<AxisId> = specialized
            .batch_axis()
            .into_iter()
            .chain([r.time])
            .collect();
        same(r, "boundaries", "seq_idx", &axes, extents, &self.shape)?;
        let wanted = extents.shape(&axes).iter().product();
        if self.seq_idx.len() != wanted {
            return Err(Error::Length {
                shape: self.shape.clone(),
                wanted,
                found: self.seq_idx.len(),
            });
        }
        Ok(())
    }
}

/// The states' tensors, their types noted in `spec`.
fn states<'a>(
    r: &Recurrence,
    spec: &mut Spec,
    initial: Vec<(&'a str, TensorRef<'a>)>,
    last: Vec<(&'a str, TensorMut<'a>)>,
    in_place: Vec<(&'a str, TensorMut<'a>)>,
) -> Result<Vec<StateArgs<'a>>, Error> {
    let mut initials: Vec<_> = r.states.iter().map(|_| None).collect();
    let mut lasts: Vec<_> = r.states.iter().map(|_| None).collect();
    let mut places: Vec<_> = r.states.iter().map(|_| None).collect();
    for (name, tensor) in initial {
        let s = spec::state(r, name, "initial state")?;
        spec.initial[s] = Some(tensor.dtype());
        put(&mut initials[s], tensor, "initial state", name)?;
    }
    for (name, tensor) in last {
        let s = spec::state(r, name, "last state")?;
        let (found, before) = (tensor.dtype(), spec.initial[s].unwrap_or(tensor.dtype()));
        if found != before {
            return Err(Error::Dtype {
                what: "last state",
                name: name.to_owned(),
                wanted: before,
                found,
                why: "its initial state is".to_owned(),
            });
        }
        spec.last[s] = Some(found);
        put(&mut lasts[s], tensor, "last state", name)?;
    }
    for (name, tensor) in in_place {
        let s = spec::state(r, name, "state")?;
        if spec.initial[s].is_some() || spec.last[s].is_some() {
            return Err(Error::Twice {
                what: "state",
                name: name.to_owned(),
            });
        }
        spec.initial[s] = Some(tensor.dtype());
        spec.last[s] = Some(tensor.dtype());
        places[s] = Some(tensor);
    }
    let each = places.into_iter().zip(initials.into_iter().zip(lasts));
    let state = |(place, (initial, last))| match place {
        Some(place) => StateArgs::InPlace(place),
        None => StateArgs::Apart(initial, last),
    };
    Ok(each.map(state).collect())
}

fn put<T>(slot: &mut Option<T>, value: T, what: &'static str, name: &str) -> Result<(), Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Twice {
            what,
            name: name.to_owned(),
        }),
    }
}

/// `B, L, D`.
pub(crate) fn axis_names(r: &Recurrence, axes: &[AxisId]) -> String {
    let names: Vec<&str> = axes.iter().map(|&a| r.axis_name(a)).collect();
    names.join(", ")
}

fn missing_tensor(
    r: &Recurrence,
    what: &'static str,
    name: &str,
    axes: &[AxisId],
    complex: bool,
) -> Error {
    let ty = if complex { "Complex" } else { "Tensor" };
    Error::Missing {
        kernel: r.name.clone(),
        what,
        name: name.to_owned(),
        ty: format!("{ty}<{}>", axis_names(r, axes)),
        remedy: format!("add `.{what}(\"{name}\", …)` to the arguments"),
    }
}

/// A tensor's shape without the pair of complex elements.
fn points<'s>(
    r: &Recurrence,
    what: &'static str,
    name: &str,
    axes: &[AxisId],
    complex: bool,
    shape: &'s [usize],
) -> Result<&'s [usize], Error> {
    match shape.split_last() {
        _ if !complex => Ok(shape),
        Some((2, points)) => Ok(points),
        _ => Err(Error::Pairs {
            what,
            name: name.to_owned(),
            axes: axis_names(r, axes),
            found: shape.to_vec(),
        }),
    }
}

fn same(
    r: &Recurrence,
    what: &'static str,
    name: &str,
    axes: &[AxisId],
    extents: &Extents,
    found: &[usize],
) -> Result<(), Error> {
    let wanted = extents.shape(axes);
    if wanted == found {
        return Ok(());
    }
    Err(Error::Extents {
        what,
        name: name.to_owned(),
        axes: axis_names(r, axes),
        wanted,
        found: found.to_vec(),
    })
}

/// Whether a tensor that is written shares memory with any other; only a state's before and after may be one.
fn check_memory(args: &Args<'_>) -> Result<(), Error> {
    struct Use<'s> {
        what: &'static str,
        name: &'s str,
        /// On the host or on the GPU: the kernel's, as has been checked.
        on_host: bool,
        at: Range<usize>,
        written: bool,
    }
    let mut uses = Vec::new();
    for (what, tensors) in [("input", &args.inputs), ("initial state", &args.initial)] {
        uses.extend(tensors.iter().map(|(name, t)| Use {
            what,
            name,
            on_host: t.span().place() == Place::Host,
            at: t.span().addresses(),
            written: false,
        }));
    }
    for (what, tensors) in [
        ("last state", &args.last),
        ("state", &args.in_place),
        ("output", &args.outputs),
    ] {
        uses.extend(tensors.iter().map(|(name, t)| Use {
            what,
            name,
            on_host: t.span().place() == Place::Host,
            at: t.span().addresses(),
            written: true,
        }));
    }
    for (i, a) in uses.iter().enumerate().filter(|(_, a)| a.written) {
        for (j, b) in uses.iter().enumerate() {
            let apart = a.on_host != b.on_host || a.at.end <= b.at.start || b.at.end <= a.at.start;
            let one_state = a.what == "last state"
                && b.what == "initial state"
                && a.name == b.name
                && a.at == b.at;
            if i != j && !a.at.is_empty() && !b.at.is_empty() && !apart && !one_state {
                return Err(Error::Overlap {
                    what: a.what,
                    name: a.name.to_owned(),
                    other_what: b.what,
                    other: b.name.to_owned(),
                });
            }
        }
    }
    Ok(())
}
