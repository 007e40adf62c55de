//! Extents of axes from the shapes of what a caller passes.
//!
//! In: a [`Recurrence`] and the shapes of its inputs, initial states and (where the caller brings their
//! memory) outputs, by name. Out: the extent of every axis, or the one sentence that says which shape does
//! not fit and to what.

use crate::axis::{AxisId, Extents};
use crate::expr::{AxisIndex, Node};
use crate::recurrence::{InputKind, Recurrence};

/// Why shapes do not fit a recurrence.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names the fields
pub enum ShapeError {
    #[error("`{kernel}` has no `{name}`; it has {known}")]
    Unknown {
        kernel: String,
        name: String,
        known: String,
    },
    #[error(
        "`{name}` [{axes}] is missing; pass it (only inputs declared `Option<…>` may be left out)"
    )]
    Missing { name: String, axes: String },
    #[error("`{name}` has the shape {found:?}; its axes are [{axes}], so pass {wanted} extents")]
    Rank {
        name: String,
        axes: String,
        wanted: usize,
        found: Vec<usize>,
    },
    #[error(
        "axis {axis} of `{name}` has the extent {found}, but {wanted} in `{by}`; make them equal"
    )]
    Extent {
        name: String,
        axis: String,
        found: usize,
        wanted: usize,
        by: String,
    },
    #[error(
        "axis {axis} of `{name}` has the extent {found}, but {axis} is an alias of {of}, which has {wanted} in `{by}`; make them equal"
    )]
    Alias {
        name: String,
        axis: String,
        of: String,
        found: usize,
        wanted: usize,
        by: String,
    },
    #[error(
        "`{name}` is read by groups, {axis} over {groups}: the extent {extent} of {axis} must be a multiple of the extent {count} of {groups}"
    )]
    Group {
        name: String,
        axis: String,
        groups: String,
        extent: usize,
        count: usize,
    },
    #[error(
        "nothing that was passed says how long axis {axis} is; pass an optional input or an initial state that has it"
    )]
    Unbound { axis: String },
    #[error("`{name}` of shape {shape:?} has more elements than memory can address")]
    Overflow { name: String, shape: Vec<usize> },
}

/// What a name of a recurrence declares: its axes and whether its elements are pairs.
struct Declared<'a> {
    name: &'a str,
    axes: &'a [AxisId],
    complex: bool,
}

/// Inputs (flags have no shape), states and outputs.
fn declared(r: &Recurrence) -> Vec<Declared<'_>> {
    let inputs = r
        .inputs
        .iter()
        .filter(|i| i.kind == InputKind::Tensor)
        .map(|i| (&i.name, &i.axes, i.complex));
    let states = r.states.iter().map(|s| (&s.name, &s.axes, s.complex));
    let outputs = r.outputs.iter().map(|o| (&o.name, &o.axes, o.complex));
    inputs
        .chain(states)
        .chain(outputs)
        .map(|(name, axes, complex)| Declared {
            name,
            axes,
            complex,
        })
        .collect()
}

/// The axes as a user wrote them: `B, L, D`.
pub(crate) fn axis_names(r: &Recurrence, axes: &[AxisId]) -> String {
    let names: Vec<&str> = axes.iter().map(|&a| r.axis_name(a)).collect();
    names.join(", ")
}

/// How many numbers a tensor holds, pairs counted as two; `None` where bytes would pass the address space.
#[must_use]
pub fn element_count(shape: &[usize], complex: bool) -> Option<usize> {
    // An extent of 0 does not excuse a product of the others that cannot be formed.
    let nonzero = shape
        .iter()
        .filter(|&&n| n > 0)
        .try_fold(1usize, |count, &n| count.checked_mul(n))?
        .checked_mul(if complex { 2 } else { 1 })?;
    let fits = nonzero.checked_mul(8)? <= isize::MAX as usize;
    fits.then_some(if shape.contains(&0) { 0 } else { nonzero })
}

/// The extent of every axis, from the shapes (without the pair of complex elements) of the required
/// inputs and of whichever optional inputs, initial states and outputs are passed.
///
/// An axis that no declaration has is given the extent 1.
///
/// # Errors
/// Every way in which shapes can be wrong is one variant of [`ShapeError`].
pub fn bind_extents<'a>(
    r: &Recurrence,
    shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<Extents, ShapeError> {
    bind(r, None, shapes)
}

/// The same where extents are known already, for example those of a recurrence that this one was made of: the shapes must
/// fit them.
pub(crate) fn bind<'a>(
    r: &Recurrence,
    known: Option<&Extents>,
    shapes: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<Extents, ShapeError> {
    let all = declared(r);
    let mut passed: Vec<Option<&[usize]>> = vec![None; all.len()];
    for (name, shape) in shapes {
        let Some(at) = all.iter().position(|d| d.name == name) else {
            return Err(unknown(r, name));
        };
        passed[at] = Some(shape);
    }
    let mut binding = Binding {
        r,
        extents: vec![None; r.axes.len()],
    };
    for (i, &extent) in known.iter().flat_map(|known| known.0.iter().enumerate()) {
        let axis = AxisId(i as u8);
        if i < r.axes.len() && r.canonical(axis) == axis {
            binding.extents[i] = Some((extent, axis, r.name.clone()));
        }
    }
    for (i, d) in all.iter().enumerate() {
        match passed[i] {
            Some(shape) => binding.bind(d.name, d.axes, shape)?,
            None if r.inputs.iter().any(|i| i.name == d.name && !i.optional) => {
                return Err(ShapeError::Missing {
                    name: d.name.to_owned(),
                    axes: axis_names(r, d.axes),
                });
            }
            None => {}
        }
    }
    // What will be touched: what was passed, and every state and output.
    let absent = |i: usize, d: &Declared| passed[i].is_none() && r.input_named(d.name).is_some();
    let needed: Vec<&Declared> = all
        .iter()
        .enumerate()
        .filter(|(i, d)| !absent(*i, d))
        .map(|(_, d)| d)
        .collect();
    let extents = binding.finish(&needed)?;
    for d in needed {
        let shape = extents.shape(d.axes);
        if element_count(&shape, d.complex).is_none() {
            return Err(ShapeError::Overflow {
                name: d.name.to_owned(),
                shape,
            });
        }
    }
    check_reads(r, &extents)?;
    Ok(extents)
}

fn unknown(r: &Recurrence, name: &str) -> ShapeError {
    let known: Vec<String> = declared(r)
        .iter()
        .map(|d| format!("`{}`", d.name))
        .collect();
    ShapeError::Unknown {
        kernel: r.name.clone(),
        name: name.to_owned(),
        known: known.join(", "),
    }
}

/// Extents found so far, by canonical axis, each with the axis and the name it was found in.
struct Binding<'a> {
    r: &'a Recurrence,
    extents: Vec<Option<(usize, AxisId, String)>>,
}

impl Binding<'_> {
    fn bind(&mut self, name: &str, axes: &[AxisId], shape: &[usize]) -> Result<(), ShapeError> {
        if axes.len() != shape.len() {
            return Err(ShapeError::Rank {
                name: name.to_owned(),
                axes: axis_names(self.r, axes),
                wanted: axes.len(),
                found: shape.to_vec(),
            });
        }
        for (&axis, &found) in axes.iter().zip(shape) {
            let root = self.r.canonical(axis);
            match &self.extents[root.0 as usize] {
                None => self.extents[root.0 as usize] = Some((found, axis, name.to_owned())),
                Some((wanted, _, _)) if *wanted == found => {}
                Some((wanted, first, by)) => {
                    let (name, axis_name) = (name.to_owned(), self.r.axis_name(axis).to_owned());
                    let (wanted, by) = (*wanted, by.clone());
                    return Err(if *first == axis {
                        ShapeError::Extent {
                            name,
                            axis: axis_name,
                            found,
                            wanted,
                            by,
                        }
                    } else {
                        ShapeError::Alias {
                            name,
                            axis: axis_name,
                            of: self.r.axis_name(*first).to_owned(),
                            found,
                            wanted,
                            by,
                        }
                    });
                }
            }
        }
        Ok(())
    }

    fn finish(self, needed: &[&Declared]) -> Result<Extents, ShapeError> {
        let r = self.r;
        let used_by_graph = r.graph.reachable(&r.roots()).into_iter();
        let mut used = used_by_graph.fold(crate::AxisSet::EMPTY, |set, id| {
            let own = match r.graph.node(id) {
                Node::Extent(axis) | Node::Reduce { axis, .. } => crate::AxisSet::of(*axis),
                _ => crate::AxisSet::EMPTY,
            };
            set.union(own).union(r.graph.axes(id))
        });
        for d in needed {
            used = used.union(d.axes.iter().copied().collect());
        }
        (0..r.axes.len() as u8)
            .map(AxisId)
            .map(|axis| {
                let found = &self.extents[r.canonical(axis).0 as usize];
                match found {
                    Some((extent, _, _)) => Ok(*extent),
                    None if !used.contains(axis) => Ok(1),
                    None => Err(ShapeError::Unbound {
                        axis: r.axis_name(axis).to_owned(),
                    }),
                }
            })
            .collect::<Result<_, _>>()
            .map(Extents)
    }
}

/// Every read stays inside its tensor: groups divide, and an axis read as another is as long as it.
fn check_reads(r: &Recurrence, extents: &Extents) -> Result<(), ShapeError> {
    for id in r.graph.reachable(&r.roots()) {
        let (name, axes, index) = match r.graph.node(id) {
            Node::Input { input, index, .. } => {
                let decl = r.input(*input);
                (&decl.name, &decl.axes, index)
            }
            Node::State { state, index, .. } => {
                let decl = r.state(*state);
                (&decl.name, &decl.axes, index)
            }
            _ => continue,
        };
        for (&declared, index) in axes.iter().zip(index) {
            let extent = extents.get(index.axis());
            match *index {
                AxisIndex::Group { of, groups } => {
                    let count = extents.get(groups);
                    if !extent.is_multiple_of(count) {
                        return Err(ShapeError::Group {
                            name: name.clone(),
                            axis: r.axis_name(of).to_owned(),
                            groups: r.axis_name(groups).to_owned(),
                            extent,
                            count,
                        });
                    }
                }
                AxisIndex::At(axis) => {
                    if extent != extents.get(declared) {
                        return Err(ShapeError::Alias {
                            name: name.clone(),
                            axis: r.axis_name(declared).to_owned(),
                            of: r.axis_name(axis).to_owned(),
                            found: extents.get(declared),
                            wanted: extent,
                            by: r.name.clone(),
                        });
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn kernel() -> Recurrence {
        Recurrence::parse(
            "#[ssm_kernel(N2 = N)]
             fn f(x: Tensor<B, L, H>, b: Tensor<B, L, G>, a: Tensor<N, N2>, e: Option<Tensor<E>>, h: State<B, H, N>) -> Tensor<B, L, H> {
                 h = sum::<N2>(a * alias::<N, N2>(h)) + x * group::<G, H>(b);
                 sum::<N>(h) + given(e, sum::<E>(e), 0)
             }",
        )
        .unwrap()
    }
    const GOOD: [(&str, &[usize]); 4] = [
        ("x", &[2, 5, 4]),
        ("b", &[2, 5, 2]),
        ("a", &[3, 3]),
        ("e", &[7]),
    ];

    #[test]
    fn extents_come_from_shapes_and_aliases() {
        let r = kernel();
        let extents = bind_extents(&r, GOOD).unwrap();
        let of = |name: &str| extents.get(r.axis_named(name).unwrap());
        assert_eq!(
            ["B", "L", "H", "G", "N", "N2", "E"].map(of),
            [2, 5, 4, 2, 3, 3, 7]
        );
        // Specialised to callers without `e`, nothing has the axis E.
        let r = r.specialize(&|_| false);
        let extents = bind_extents(&r, GOOD[..3].iter().copied()).unwrap();
        assert_eq!(extents.get(r.axis_named("E").unwrap()), 1);
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        let r = kernel();
        for (name, shape, wanted) in [
            (
                "y",
                &[1][..],
                "`f` has no `y`; it has `x`, `b`, `a`, `e`, `h`, `out`",
            ),
            (
                "x",
                &[2, 5],
                "`x` has the shape [2, 5]; its axes are [B, L, H], so pass 3 extents",
            ),
            (
                "b",
                &[2, 6, 2],
                "axis L of `b` has the extent 6, but 5 in `x`",
            ),
            (
                "a",
                &[3, 4],
                "axis N2 of `a` has the extent 4, but N2 is an alias of N, which has 3 in `a`",
            ),
            (
                "b",
                &[2, 5, 3],
                "`b` is read by groups, H over G: the extent 4 of H must be a multiple of the extent 3 of G",
            ),
            ("b", &[2, 5, 0], "must be a multiple of the extent 0"),
            ("h", &[2, 4, 9], "axis N of `h`"),
            ("e", &[usize::MAX / 4], "`e` of shape"),
        ] {
            let shapes = GOOD.iter().copied().filter(|(n, _)| *n != name);
            let shapes = shapes.chain([(name, shape)]);
            let error = bind_extents(&r, shapes).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let error = bind_extents(&r, GOOD[1..].iter().copied())
            .unwrap_err()
            .to_string();
        assert!(error.contains("`x` [B, L, H] is missing"), "{error}");
        let error = bind_extents(&r, GOOD[..3].iter().copied())
            .unwrap_err()
            .to_string();
        assert!(error.contains("how long axis E is"), "{error}");
    }

    #[test]
    fn counts_do_not_wrap() {
        assert_eq!(element_count(&[2, 3], true), Some(12));
        assert_eq!(element_count(&[], false), Some(1));
        assert_eq!(element_count(&[usize::MAX, 0], false), None);
        assert_eq!(element_count(&[1 << 32, 1 << 32], false), None);
        assert_eq!(element_count(&[1 << 60], false), None);
        assert_eq!(element_count(&[5, 0], false), Some(0));
    }
}
