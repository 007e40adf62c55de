//! Tensors: borrowed to read ([`TensorRef`]), borrowed to write ([`TensorMut`]) and owned ([`Tensor`]).
//!
//! In: contiguous slices of f32, f64, bf16 or f16 with a shape; row-major, the last dimension next to itself
//! in memory. A complex tensor has a trailing dimension of 2: (re, im). Out: what a launch takes.

use std::fmt;

use half::{bf16, f16};
use selscan_codegen::Dtype;

use crate::device::memory::{Memory, Span, SpanMut};
use crate::error::Error;

mod sealed {
    pub trait Sealed {}
}

/// A number that tensors can hold: f32, f64, bf16, f16.
pub trait Element: Copy + Send + Sync + sealed::Sealed + 'static {
    /// Its storage type.
    const DTYPE: Dtype;
    /// The nearest element.
    fn from_f64(value: f64) -> Self;
    /// The same number.
    fn to_f64(self) -> f64;
}

macro_rules! elements {
    ($($ty:ty = $dtype:ident, $from:expr, $to:expr;)*) => {
        $(impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: Dtype = Dtype::$dtype;
            fn from_f64(value: f64) -> Self { $from(value) }
            fn to_f64(self) -> f64 { $to(self) }
        })*
    };
}

elements! {
    f32 = F32, |x| x as f32, f64::from;
    f64 = F64, |x| x, |x| x;
    bf16 = Bf16, bf16::from_f64, bf16::to_f64;
    f16 = F16, f16::from_f64, f16::to_f64;
}

/// How many elements a shape has; [`Error::TooLarge`] if their bytes do not fit in an address space.
pub(crate) fn elements(dtype: Dtype, shape: &[usize]) -> Result<usize, Error> {
    let len = if shape.contains(&0) {
        Some(0)
    } else {
        shape
            .iter()
            .try_fold(1usize, |len, &extent| len.checked_mul(extent))
    };
    len.filter(|len| {
        len.checked_mul(dtype.bytes())
            .is_some_and(|bytes| isize::try_from(bytes).is_ok())
    })
    .ok_or_else(|| Error::TooLarge {
        what: format!("a tensor of shape {shape:?} and type {dtype}"),
    })
}

/// The strides of a contiguous tensor, in elements.
fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// The length that a slice must have for a shape with strides.
fn check(
    dtype: Dtype,
    len: usize,
    shape: &[usize],
    strides: Option<&[usize]>,
) -> Result<(), Error> {
    let wanted = elements(dtype, shape)?;
    if let Some(strides) = strides {
        let expected = contiguous(shape);
        // The stride of a dimension of one element is never used.
        let fits = strides.len() == shape.len()
            && (wanted == 0
                || (0..shape.len()).all(|i| shape[i] == 1 || strides[i] == expected[i]));
        if !fits {
            return Err(Error::Layout {
                shape: shape.to_vec(),
                strides: strides.to_vec(),
                wanted: expected,
            });
        }
    }
    if len != wanted {
        return Err(Error::Length {
            shape: shape.to_vec(),
            wanted,
            found: len,
        });
    }
    Ok(())
}

/// A contiguous tensor to read.
#[derive(Clone, Debug)]
pub struct TensorRef<'a> {
    span: Span<'a>,
    shape: Vec<usize>,
}

impl<'a> TensorRef<'a> {
    /// A slice with a shape.
    ///
    /// # Errors
    /// If the slice does not have as many elements as the shape.
    pub fn new<T: Element>(data: &'a [T], shape: &[usize]) -> Result<Self, Error> {
        check(T::DTYPE, data.len(), shape, None)?;
        Ok(Self::from_span(Span::new(data), shape))
    }

    /// A view with strides in elements.
    ///
    /// # Errors
    /// If the view is not contiguous and row-major: kernels read memory in the order of the declared axes.
    pub fn with_strides<T: Element>(
        data: &'a [T],
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Self, Error> {
        check(T::DTYPE, data.len(), shape, Some(strides))?;
        Ok(Self::from_span(Span::new(data), shape))
    }

    pub(crate) fn from_span(span: Span<'a>, shape: &[usize]) -> Self {
        TensorRef {
            span,
            shape: shape.to_vec(),
        }
    }
    /// The type of its elements.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.span.dtype()
    }
    /// Its extents, the slowest first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    pub(crate) fn span(&self) -> Span<'a> {
        self.span
    }
}

/// A contiguous tensor to write.
#[derive(Debug)]
pub struct TensorMut<'a> {
    span: SpanMut<'a>,
    shape: Vec<usize>,
}

impl<'a> TensorMut<'a> {
    /// A slice with a shape.
    ///
    /// # Errors
    /// If the slice does not have as many elements as the shape.
    pub fn new<T: Element>(data: &'a mut [T], shape: &[usize]) -> Result<Self, Error> {
        check(T::DTYPE, data.len(), shape, None)?;
        Ok(Self::from_span(SpanMut::new(data), shape))
    }

    /// A view with strides in elements.
    ///
    /// # Errors
    /// If the view is not contiguous and row-major: kernels write memory in the order of the declared axes.
    pub fn with_strides<T: Element>(
        data: &'a mut [T],
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Self, Error> {
        check(T::DTYPE, data.len(), shape, Some(strides))?;
        Ok(Self::from_span(SpanMut::new(data), shape))
    }

    pub(crate) fn from_span(span: SpanMut<'a>, shape: &[usize]) -> Self {
        TensorMut {
            span,
            shape: shape.to_vec(),
        }
    }
    /// The type of its elements.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.span.dtype()
    }
    /// Its extents, the slowest first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// The same tensor for a shorter time, to launch with it more than once.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut {
            span: self.span.reborrow(),
            shape: self.shape.clone(),
        }
    }
    pub(crate) fn span(&self) -> &SpanMut<'a> {
        &self.span
    }
    pub(crate) fn into_span(self) -> SpanMut<'a> {
        self.span
    }
}

/// An owned tensor, 64-byte aligned.
pub struct Tensor {
    memory: Memory,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// If the shape is too large for an address space or for this machine's memory.
    pub fn zeros(dtype: Dtype, shape: &[usize]) -> Result<Tensor, Error> {
        let len = elements(dtype, shape)?;
        Ok(Tensor {
            memory: Memory::zeroed(len * dtype.bytes())?,
            dtype,
            shape: shape.to_vec(),
        })
    }

    /// A copy of a slice.
    ///
    /// # Errors
    /// As [`Tensor::zeros`], and if the slice does not have as many elements as the shape.
    pub fn from_slice<T: Element>(data: &[T], shape: &[usize]) -> Result<Tensor, Error> {
        check(T::DTYPE, data.len(), shape, None)?;
        let mut tensor = Tensor::zeros(T::DTYPE, shape)?;
        tensor.memory.as_mut_slice().copy_from_slice(data);
        Ok(tensor)
    }

    /// Numbers, each rounded to the nearest element.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn from_f64(dtype: Dtype, shape: &[usize], data: &[f64]) -> Result<Tensor, Error> {
        fn round<T: Element>(tensor: &mut Tensor, data: &[f64]) {
            for (to, &from) in tensor.memory.as_mut_slice::<T>().iter_mut().zip(data) {
                *to = T::from_f64(from);
            }
        }
        check(dtype, data.len(), shape, None)?;
        let mut tensor = Tensor::zeros(dtype, shape)?;
        match dtype {
            Dtype::F32 => round::<f32>(&mut tensor, data),
            Dtype::F64 => round::<f64>(&mut tensor, data),
            Dtype::Bf16 => round::<bf16>(&mut tensor, data),
            Dtype::F16 => round::<f16>(&mut tensor, data),
        }
        Ok(tensor)
    }

    /// Its elements as f64, exactly.
    #[must_use]
    pub fn to_f64(&self) -> Vec<f64> {
        fn widen<T: Element>(tensor: &Tensor) -> Vec<f64> {
            let elements = tensor.memory.as_slice::<T>();
            elements.iter().map(|x| x.to_f64()).collect()
        }
        match self.dtype {
            Dtype::F32 => widen::<f32>(self),
            Dtype::F64 => widen::<f64>(self),
            Dtype::Bf16 => widen::<bf16>(self),
            Dtype::F16 => widen::<f16>(self),
        }
    }

    /// The tensor at the first `shape` positions of every dimension.
    pub(crate) fn prefix(&self, shape: &[usize]) -> Result<Tensor, Error> {
        fn copy<T: Element>(from: &Tensor, to: &mut Tensor) {
            let (all, strides) = (from.memory.as_slice::<T>(), contiguous(&from.shape));
            let inner = contiguous(&to.shape);
            let shape = to.shape.clone();
            for (i, element) in to.memory.as_mut_slice::<T>().iter_mut().enumerate() {
                let at = (0..shape.len()).map(|d| i / inner[d] % shape[d] * strides[d]);
                *element = all[at.sum::<usize>()];
            }
        }
        let mut part = Tensor::zeros(self.dtype, shape)?;
        match self.dtype {
            Dtype::F32 => copy::<f32>(self, &mut part),
            Dtype::F64 => copy::<f64>(self, &mut part),
            Dtype::Bf16 => copy::<bf16>(self, &mut part),
            Dtype::F16 => copy::<f16>(self, &mut part),
        }
        Ok(part)
    }

    /// Every element set to `value`, rounded to its type.
    pub fn fill(&mut self, value: f64) {
        self.view_mut().span.fill(value);
    }

    /// The type of its elements.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
    /// Its extents, the slowest first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.bytes() / self.dtype.bytes()
    }
    /// Whether it has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.bytes() == 0
    }
    /// Its elements, if `T` is their type.
    #[must_use]
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        (T::DTYPE == self.dtype).then(|| self.memory.as_slice())
    }
    /// Its elements, if `T` is their type.
    #[must_use]
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        (T::DTYPE == self.dtype).then(|| self.memory.as_mut_slice())
    }
    /// It, to read.
    #[must_use]
    pub fn view(&self) -> TensorRef<'_> {
        let span = Span::of_memory(&self.memory, self.dtype, self.len());
        TensorRef::from_span(span, &self.shape)
    }
    /// It, to write.
    #[must_use]
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let (len, dtype) = (self.len(), self.dtype);
        let span = SpanMut::of_memory(&mut self.memory, dtype, len);
        TensorMut::from_span(span, &self.shape)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

impl<'a> From<&'a Tensor> for TensorRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        tensor.view()
    }
}
impl<'a> From<&'a mut Tensor> for TensorMut<'a> {
    fn from(tensor: &'a mut Tensor) -> Self {
        tensor.view_mut()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_slice_has_as_many_elements_as_its_shape() {
        assert!(TensorRef::new(&[0f32; 6], &[2, 3]).is_ok());
        assert!(TensorRef::new::<f32>(&[], &[2, 0, usize::MAX]).is_ok());
        let short = TensorRef::new(&[0f32; 5], &[2, 3]).unwrap_err();
        assert_eq!(
            short.to_string(),
            "the shape [2, 3] has 6 elements, but the slice has 5; pass all of the tensor's elements, or the shape \
             that the slice has (a complex tensor has a trailing dimension of 2)"
        );
        let huge = TensorRef::new(&[0f32; 4], &[usize::MAX, 8]).unwrap_err();
        assert!(matches!(huge, Error::TooLarge { .. }), "{huge}");
        // 2^62 elements are countable, their bytes are not.
        let bytes = Tensor::zeros(Dtype::F64, &[1 << 31, 1 << 31]).unwrap_err();
        assert!(matches!(bytes, Error::TooLarge { .. }), "{bytes}");
        let memory = Tensor::zeros(Dtype::F32, &[1 << 60]).unwrap_err();
        assert!(matches!(memory, Error::OutOfMemory { .. }), "{memory}");
    }

    #[test]
    fn only_contiguous_views_are_taken() {
        assert!(TensorRef::with_strides(&[0f32; 6], &[2, 3], &[3, 1]).is_ok());
        // A dimension of one element may have any stride.
        assert!(TensorRef::with_strides(&[0f32; 3], &[1, 3], &[77, 1]).is_ok());
        let transposed = TensorRef::with_strides(&[0f32; 6], &[3, 2], &[1, 3]).unwrap_err();
        assert_eq!(
            transposed.to_string(),
            "the view of shape [3, 2] has strides [1, 3], but kernels take contiguous row-major tensors, strides \
             [2, 1]; copy it into contiguous memory first (`.contiguous()`, `.as_standard_layout()`), or declare the \
             kernel's tensor with its axes in the order that they have in memory"
        );
        assert!(TensorMut::with_strides(&mut [0f32; 6], &[2, 3], &[4, 1]).is_err());
    }

    #[test]
    fn tensors_round_to_their_type_and_back() {
        let data = [1.0, -2.5, 1.0 + 1.0 / 512.0, f64::NAN];
        for dtype in Dtype::ALL {
            let tensor = Tensor::from_f64(dtype, &[2, 2], &data).unwrap();
            let back = tensor.to_f64();
            assert_eq!(&back[..2], &data[..2], "{dtype}");
            assert!((back[2] - data[2]).abs() <= dtype.epsilon(), "{dtype}");
            assert!(back[3].is_nan(), "{dtype}");
            assert_eq!(tensor.view().span().addresses().start % 64, 0);
        }
    }

    #[test]
    fn filled_and_borrowed_again() {
        let mut tensor = Tensor::zeros(Dtype::Bf16, &[3]).unwrap();
        assert_eq!(tensor.to_f64(), [0.0; 3]);
        tensor.fill(1.5);
        assert_eq!(tensor.as_slice::<bf16>().unwrap()[2], bf16::from_f32(1.5));
        assert!(tensor.as_slice::<f32>().is_none());
        let mut view = tensor.view_mut();
        let again = view.reborrow();
        assert_eq!(again.shape(), [3]);
    }
}
