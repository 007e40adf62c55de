//! Dense f64 arrays, and what goes into and comes out of [`mod@crate::eval`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::shape::element_count;

/// A dense row-major array of real or complex numbers.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    /// Extents, the slowest first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Whether each element is a (re, im) pair of neighbours in `data`.
    pub complex: bool,
    /// The elements.
    pub data: Vec<f64>,
}

impl Array {
    /// A real array; `data` holds one number an element.
    #[must_use]
    pub fn real(shape: &[usize], data: Vec<f64>) -> Array {
        Array {
            shape: shape.to_vec(),
            complex: false,
            data,
        }
    }
    /// A complex array; `data` holds (re, im), two numbers an element.
    #[must_use]
    pub fn complex(shape: &[usize], data: Vec<f64>) -> Array {
        Array {
            shape: shape.to_vec(),
            complex: true,
            data,
        }
    }
    /// A real scalar.
    #[must_use]
    pub fn scalar(value: f64) -> Array {
        Array::real(&[], vec![value])
    }
    /// An array of one value everywhere (the real half, of complex elements).
    ///
    /// The caller has made sure, as [`crate::shape::bind_extents`] does, that the shape fits in memory.
    #[must_use]
    pub fn filled(shape: &[usize], complex: bool, value: f64) -> Array {
        let count: usize = shape.iter().product();
        let data = if complex {
            [value, 0.0].repeat(count)
        } else {
            vec![value; count]
        };
        Array {
            shape: shape.to_vec(),
            complex,
            data,
        }
    }
    /// How many numbers `data` must hold for the shape; `None` if that is past the address space.
    #[must_use]
    pub fn wanted_len(&self) -> Option<usize> {
        element_count(&self.shape, self.complex)
    }
    /// The largest |x| over `data`, 0 if it is empty; NaN if any is NaN.
    #[must_use]
    pub fn max_abs(&self) -> f64 {
        self.data.iter().fold(0.0, |most: f64, x| {
            if x.is_nan() || most.is_nan() {
                f64::NAN
            } else {
                most.max(x.abs())
            }
        })
    }
    /// The part of the array in a range of positions on one axis.
    ///
    /// The caller has made sure that the axis and the range are inside the shape.
    #[must_use]
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Array {
        let width = if self.complex { 2 } else { 1 };
        let inner = self.shape[axis + 1..].iter().product::<usize>() * width;
        let mut part = self.clone();
        part.shape[axis] = range.len();
        part.data = match self.shape[axis] * inner {
            0 => vec![],
            row => {
                let rows = self.data.chunks(row);
                let part = |row: &[f64]| row[range.start * inner..range.end * inner].to_vec();
                rows.flat_map(part).collect()
            }
        };
        part
    }
    /// The array with its axes in another order: axis `i` of the result is axis `order[i]` of this one.
    ///
    /// `order` is a permutation of the axes; elements that are pairs stay pairs.
    #[must_use]
    pub fn permuted(&self, order: &[usize]) -> Array {
        let shape: Vec<usize> = order.iter().map(|&i| self.shape[i]).collect();
        let own = strides(&self.shape);
        let from = positions(&shape, |axis, at| own[order[axis]] * at);
        self.gathered(shape, &from)
    }

    /// The elements at these positions of every axis: position `i` on an axis of the result is position `keep[axis][i]` of this one.
    #[must_use]
    pub fn picked(&self, keep: &[&[usize]]) -> Array {
        let shape: Vec<usize> = keep.iter().map(|own| own.len()).collect();
        let own = strides(&self.shape);
        let from = positions(&shape, |axis, at| own[axis] * keep[axis][at]);
        self.gathered(shape, &from)
    }

    /// The elements with these numbers, in that order.
    fn gathered(&self, shape: Vec<usize>, from: &[usize]) -> Array {
        let width = if self.complex { 2 } else { 1 };
        let data = from
            .iter()
            .flat_map(|&at| &self.data[at * width..(at + 1) * width])
            .copied()
            .collect();
        Array {
            shape,
            complex: self.complex,
            data,
        }
    }
}

/// Elements between neighbours along each axis of a row-major array.
#[must_use]
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// For every point of `shape` in row-major order, the sum over its axes of `step(axis, position)`.
#[must_use]
pub(crate) fn positions(shape: &[usize], step: impl Fn(usize, usize) -> usize) -> Vec<usize> {
    let mut all = vec![0];
    for (axis, &extent) in shape.iter().enumerate() {
        all = all
            .iter()
            .flat_map(|&base| (0..extent).map(move |at| (base, at)))
            .map(|(base, at)| base + step(axis, at))
            .collect();
    }
    all
}

/// What [`crate::eval::eval`] takes, by name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Inputs {
    /// The inputs that are given; optional ones may be left out.
    pub tensors: BTreeMap<String, Array>,
    /// The flags that are given.
    pub flags: BTreeSet<String>,
    /// Initial states by the state's name; the others start from their declared initial value (0).
    pub initial: BTreeMap<String, Array>,
    /// Packed sequences: the sequence each token belongs to, `[B, L]` (`[L]` for a kernel without a batch
    /// axis, see [`crate::Recurrence::batch_axis`]). States are 0 before the first token of the second and of
    /// every later sequence.
    pub seq_idx: Option<Array>,
}

impl Inputs {
    /// No inputs.
    #[must_use]
    pub fn new() -> Inputs {
        Inputs::default()
    }
    /// With the input `name`.
    #[must_use]
    pub fn with(mut self, name: &str, value: Array) -> Inputs {
        self.tensors.insert(name.to_owned(), value);
        self
    }
    /// With the flag `name` given.
    #[must_use]
    pub fn with_flag(mut self, name: &str) -> Inputs {
        self.flags.insert(name.to_owned());
        self
    }
    /// With the initial value of the state `name`.
    #[must_use]
    pub fn with_initial(mut self, name: &str, value: Array) -> Inputs {
        self.initial.insert(name.to_owned(), value);
        self
    }
    /// With packed sequences.
    #[must_use]
    pub fn with_seq_idx(mut self, value: Array) -> Inputs {
        self.seq_idx = Some(value);
        self
    }
    /// Whether the input or flag `name` is given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.flags.contains(name)
    }
}

/// What [`crate::eval::eval`] returns, by name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outputs {
    /// Every output.
    pub tensors: BTreeMap<String, Array>,
    /// Every state after the last step in its direction (its initial value if there is no step).
    pub last: BTreeMap<String, Array>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(shape: &[usize], complex: bool) -> Array {
        let mut x = Array::filled(shape, complex, 0.0);
        for (i, x) in x.data.iter_mut().enumerate() {
            *x = i as f64;
        }
        x
    }

    #[test]
    fn axes_change_places_and_pairs_stay_together() {
        let x = count(&[2, 3], false).permuted(&[1, 0]);
        assert_eq!(
            (x.shape, x.data),
            (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0])
        );
        let z = count(&[2, 2], true).permuted(&[1, 0]);
        assert_eq!(z.data, [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]);
        assert_eq!(count(&[], false).permuted(&[]).data, [0.0]);
        assert_eq!(count(&[0, 2], false).permuted(&[1, 0]).shape, [2, 0]);
    }

    #[test]
    fn slices_take_positions_of_one_axis() {
        let x = count(&[2, 3, 2], false).slice(1, 1..3);
        assert_eq!(
            (x.shape, x.data),
            (
                vec![2, 2, 2],
                vec![2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0]
            )
        );
        assert_eq!(count(&[2], true).slice(0, 1..2).data, [2.0, 3.0]);
        assert_eq!(count(&[3, 2], false).slice(0, 2..2).data, [0.0; 0]);
    }

    #[test]
    fn the_largest_magnitude_does_not_hide_a_nan() {
        assert_eq!(Array::real(&[2], vec![1.0, -3.0]).max_abs(), 3.0);
        assert!(
            Array::real(&[3], vec![1.0, f64::NAN, 3.0])
                .max_abs()
                .is_nan()
        );
    }
}
