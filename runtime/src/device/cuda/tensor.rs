//! Tensors on a GPU: owned ([`DeviceTensor`]), and views of memory that other libraries own.
//!
//! In: tensors of the host, shapes, device pointers. Out: what a launch on the GPU takes without a copy. All that is done
//! to a tensor is queued on the stream of the [`Cuda`] that it was made with; what another stream does with it has to be
//! ordered by the caller ([`Cuda::synchronize`]).

use std::fmt;

use selscan_codegen::Dtype;

use super::Cuda;
use super::memory::DeviceMemory;
use crate::buffer::{Element, Tensor, TensorMut, TensorRef, elements};
use crate::device::memory::{Span, SpanMut};
use crate::error::Error;

/// An owned tensor on a GPU, freed when it is dropped.
pub struct DeviceTensor {
    cuda: Cuda,
    memory: DeviceMemory,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl DeviceTensor {
    /// A tensor of whatever was there.
    pub(crate) fn unwritten(
        cuda: &Cuda,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<DeviceTensor, Error> {
        cuda.not_while_capturing("a tensor was made", "make it before")?;
        let bytes = elements(dtype, shape)? * dtype.bytes();
        Ok(DeviceTensor {
            cuda: cuda.clone(),
            memory: DeviceMemory::new(&cuda.gpu, bytes)?,
            dtype,
            shape: shape.to_vec(),
        })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// [`Error::DeviceMemory`]; [`Error::TooLarge`].
    pub fn zeros(cuda: &Cuda, dtype: Dtype, shape: &[usize]) -> Result<DeviceTensor, Error> {
        let tensor = DeviceTensor::unwritten(cuda, dtype, shape)?;
        cuda.set_bytes(tensor.memory.ptr(), tensor.memory.bytes(), 0)?;
        Ok(tensor)
    }

    /// A copy of a tensor of the host.
    ///
    /// # Errors
    /// As [`DeviceTensor::zeros`].
    pub fn from_tensor(cuda: &Cuda, tensor: &Tensor) -> Result<DeviceTensor, Error> {
        DeviceTensor::from_host(cuda, &tensor.view())
    }

    /// A copy of a slice.
    ///
    /// # Errors
    /// As [`DeviceTensor::zeros`], and if the slice does not have as many elements as the shape.
    pub fn from_slice<T: Element>(
        cuda: &Cuda,
        data: &[T],
        shape: &[usize],
    ) -> Result<DeviceTensor, Error> {
        DeviceTensor::from_host(cuda, &TensorRef::new(data, shape)?)
    }

    fn from_host(cuda: &Cuda, tensor: &TensorRef<'_>) -> Result<DeviceTensor, Error> {
        let made = DeviceTensor::unwritten(cuda, tensor.dtype(), tensor.shape())?;
        cuda.upload(&tensor.span(), made.memory.ptr())?;
        // A caller's page-locked memory would be read later.
        cuda.synchronize()?;
        Ok(made)
    }

    /// A copy of it on the GPU.
    ///
    /// # Errors
    /// As [`DeviceTensor::zeros`].
    pub fn copy(&self) -> Result<DeviceTensor, Error> {
        let made = DeviceTensor::unwritten(&self.cuda, self.dtype, &self.shape)?;
        self.cuda
            .copy(self.memory.ptr(), made.memory.ptr(), self.memory.bytes())?;
        Ok(made)
    }

    /// Its elements on the host, once everything queued before is done.
    ///
    /// # Errors
    /// What went wrong with the work that was queued; [`Error::OutOfMemory`].
    pub fn to_tensor(&self) -> Result<Tensor, Error> {
        let mut tensor = Tensor::zeros(self.dtype, &self.shape)?;
        self.cuda
            .download(self.memory.ptr(), &mut tensor.view_mut().into_span())?;
        self.cuda.synchronize()?;
        Ok(tensor)
    }

    /// Its elements become those of a tensor of the host of the same shape and type.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Dtype`] if it is of another one.
    pub fn copy_from(&mut self, tensor: &Tensor) -> Result<(), Error> {
        self.same(tensor.dtype(), tensor.shape())?;
        self.cuda.upload(&tensor.view().span(), self.memory.ptr())?;
        self.cuda.synchronize()
    }

    /// Its elements become those of another one on the same GPU, of the same shape and type. Queued: nobody waits.
    ///
    /// # Errors
    /// As [`DeviceTensor::copy_from`]; [`Error::Elsewhere`] if it is on another GPU.
    pub fn copy_from_device(&mut self, tensor: &DeviceTensor) -> Result<(), Error> {
        self.same(tensor.dtype, &tensor.shape)?;
        let (own, other) = (self.cuda.ordinal(), tensor.cuda.ordinal());
        if own != other {
            return Err(Error::Elsewhere { own, other });
        }
        self.cuda
            .copy(tensor.memory.ptr(), self.memory.ptr(), self.memory.bytes())
    }

    /// Its elements become those of a tensor of the host over and over, which has its type and, but for the first one, its
    /// extents. Large tensors are so filled without as much memory on the host.
    ///
    /// # Errors
    /// As [`DeviceTensor::copy_from`].
    pub fn repeat_from(&mut self, tensor: &Tensor) -> Result<(), Error> {
        let rows = tensor.shape().first().copied().unwrap_or(0);
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = rows.min(*first);
        }
        let own = DeviceTensor::same_as((self.dtype, &shape), tensor.dtype(), tensor.shape());
        own?;
        let (at, all) = (self.memory.ptr(), self.memory.bytes());
        self.cuda.upload(&tensor.view().span(), at)?;
        let mut done = tensor.len() * self.dtype.bytes();
        // Each copy doubles what is there.
        while done > 0 && done < all {
            let more = done.min(all - done);
            self.cuda.copy(at, at + done as u64, more)?;
            done += more;
        }
        self.cuda.synchronize()
    }

    /// A copy on the host of some positions of its first axis, once everything queued before is done.
    ///
    /// # Errors
    /// As [`DeviceTensor::to_tensor`]; [`Error::Length`] if it has fewer positions.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Result<Tensor, Error> {
        let has = self.shape.first().copied().unwrap_or(0);
        let mut shape = self.shape.clone();
        if rows.start > rows.end || rows.end > has {
            return Err(Error::Length {
                shape,
                wanted: has,
                found: rows.end,
            });
        }
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        let mut tensor = Tensor::zeros(self.dtype, &shape)?;
        let row = self.memory.bytes() / has.max(1);
        self.cuda.download(
            self.memory.ptr() + (rows.start * row) as u64,
            &mut tensor.view_mut().into_span(),
        )?;
        self.cuda.synchronize()?;
        Ok(tensor)
    }

    /// Whether it is of that type and shape.
    fn same(&self, dtype: Dtype, shape: &[usize]) -> Result<(), Error> {
        DeviceTensor::same_as((self.dtype, &self.shape), dtype, shape)
    }

    fn same_as(
        (own, wanted): (Dtype, &[usize]),
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<(), Error> {
        if dtype != own {
            return Err(Error::Dtype {
                what: "tensor",
                name: "copied".to_owned(),
                wanted: own,
                found: dtype,
                why: "the tensor on the GPU is".to_owned(),
            });
        }
        if shape != wanted {
            return Err(Error::Length {
                shape: wanted.to_vec(),
                wanted: wanted.iter().product(),
                found: shape.iter().product(),
            });
        }
        Ok(())
    }

    /// Every element set to `value`, rounded to its type.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn fill(&mut self, value: f64) -> Result<(), Error> {
        let cuda = self.cuda.clone();
        cuda.fill_span(&mut self.view_mut().into_span(), value, false)
    }

    /// Every bit set: NaN in every type. What a kernel does not write is then seen.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn poison(&mut self) -> Result<(), Error> {
        self.cuda
            .set_bytes(self.memory.ptr(), self.memory.bytes(), 0xff)
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
    /// Its address on the GPU, for other libraries; 0 if it has no element.
    #[must_use]
    pub fn device_ptr(&self) -> u64 {
        self.memory.ptr()
    }
    /// It, to read.
    #[must_use]
    pub fn view(&self) -> TensorRef<'_> {
        let span = Span::on_device(
            self.memory.ptr(),
            Some(self.cuda.ordinal()),
            self.dtype,
            self.len(),
        );
        TensorRef::from_span(span, &self.shape)
    }
    /// It, to write.
    #[must_use]
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        let span = SpanMut::on_device(
            self.memory.ptr(),
            Some(self.cuda.ordinal()),
            self.dtype,
            self.len(),
        );
        TensorMut::from_span(span, &self.shape)
    }
}

impl fmt::Debug for DeviceTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DeviceTensor({} {:?} on cuda:{})",
            self.dtype,
            self.shape,
            self.cuda.ordinal()
        )
    }
}

impl<'a> From<&'a DeviceTensor> for TensorRef<'a> {
    fn from(tensor: &'a DeviceTensor) -> Self {
        tensor.view()
    }
}
impl<'a> From<&'a mut DeviceTensor> for TensorMut<'a> {
    fn from(tensor: &'a mut DeviceTensor) -> Self {
        tensor.view_mut()
    }
}

impl<'a> TensorRef<'a> {
    /// A tensor at an address on the GPU that the kernel runs on: memory of another library (PyTorch's `data_ptr()`,
    /// candle's and cudarc's `CudaSlice`). Kernels want it to start at a multiple of 16 bytes.
    ///
    /// # Errors
    /// If the shape has more elements than an address space.
    ///
    /// # Safety
    /// `ptr` is an address on that GPU, valid for reads of the shape's elements until the launch that it is passed to has
    /// run (a launch returns before that); whoever writes it does so before, in the order of the launch's stream.
    pub unsafe fn from_device_ptr(ptr: u64, dtype: Dtype, shape: &[usize]) -> Result<Self, Error> {
        let len = elements(dtype, shape)?;
        Ok(TensorRef::from_span(
            Span::on_device(ptr, None, dtype, len),
            shape,
        ))
    }
}

impl<'a> TensorMut<'a> {
    /// A tensor to write at an address on the GPU that the kernel runs on; see [`TensorRef::from_device_ptr`].
    ///
    /// # Errors
    /// If the shape has more elements than an address space.
    ///
    /// # Safety
    /// As [`TensorRef::from_device_ptr`], for reads and writes, and by nobody else until the launch has run.
    pub unsafe fn from_device_ptr(ptr: u64, dtype: Dtype, shape: &[usize]) -> Result<Self, Error> {
        let len = elements(dtype, shape)?;
        Ok(TensorMut::from_span(
            SpanMut::on_device(ptr, None, dtype, len),
            shape,
        ))
    }
}
