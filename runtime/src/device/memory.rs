//! Memory that kernels read and write: owned and 64-byte aligned, or borrowed as an address range.
//!
//! In: bytes to allocate, slices, raw pointers. Out: [`Memory`], [`Span`] and [`SpanMut`], which carry the
//! lifetime of what they point into and where that is, so that everything above this folder is safe code.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use selscan_codegen::Dtype;

use crate::buffer::{Element, TensorMut, TensorRef};
use crate::error::Error;
use crate::place::Place;

/// The alignment of owned memory in bytes: a cache line, and the widest vector of any CPU.
const ALIGN: usize = 64;

/// Owned bytes, aligned to 64, zero at first.
pub(crate) struct Memory {
    ptr: NonNull<u8>,
    bytes: usize,
}

// SAFETY: `Memory` is the only owner of its allocation, and plain bytes have no thread affinity.
unsafe impl Send for Memory {}
// SAFETY: a shared reference gives only shared slices of it.
unsafe impl Sync for Memory {}

impl Memory {
    /// `bytes` zero bytes; [`Error::OutOfMemory`] if the system does not give them.
    pub(crate) fn zeroed(bytes: usize) -> Result<Memory, Error> {
        let refused = || Error::OutOfMemory { bytes };
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| refused())?;
        let ptr = if bytes == 0 {
            layout.dangling_ptr()
        } else {
            // SAFETY: the layout's size is not 0.
            NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?
        };
        Ok(Memory { ptr, bytes })
    }

    /// How many bytes it has.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its first byte.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Its first byte.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// All of it as elements.
    pub(crate) fn as_slice<T: Element>(&self) -> &[T] {
        // SAFETY: aligned to 64, initialised (zeroed), long enough, and every bit pattern is a `T`: `Element`
        // is sealed and holds only floats.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr().cast(), self.bytes / size_of::<T>()) }
    }

    /// All of it as elements.
    pub(crate) fn as_mut_slice<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and the borrow of `self` is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.ptr.as_ptr().cast(), self.bytes / size_of::<T>())
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: allocated in `zeroed` with this size and alignment.
            unsafe {
                dealloc(
                    self.ptr.as_ptr(),
                    Layout::from_size_align_unchecked(self.bytes, ALIGN),
                );
            }
        }
    }
}

/// Elements that may be read while `'a` lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    ptr: *const u8,
    dtype: Dtype,
    len: usize,
    place: Place,
    memory: PhantomData<&'a [u8]>,
}

// SAFETY: it stands for a shared slice of floats, which is Send and Sync.
unsafe impl Send for Span<'_> {}
// SAFETY: as above.
unsafe impl Sync for Span<'_> {}

/// Elements that may be read and written while `'a` lasts.
#[derive(Debug)]
pub(crate) struct SpanMut<'a> {
    ptr: *mut u8,
    dtype: Dtype,
    len: usize,
    place: Place,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: it stands for an exclusive slice of floats, which is Send and Sync.
unsafe impl Send for SpanMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for SpanMut<'_> {}

/// The addresses of `len` elements at `ptr`.
fn addresses(ptr: *const u8, dtype: Dtype, len: usize) -> Range<usize> {
    let first = ptr.addr();
    first..first + len * dtype.bytes()
}

impl<'a> Span<'a> {
    /// A slice.
    pub(crate) fn new<T: Element>(data: &'a [T]) -> Span<'a> {
        Span {
            ptr: data.as_ptr().cast(),
            dtype: T::DTYPE,
            len: data.len(),
            place: Place::Host,
            memory: PhantomData,
        }
    }
    /// The first `len` elements of owned memory.
    pub(crate) fn of_memory(memory: &'a Memory, dtype: Dtype, len: usize) -> Span<'a> {
        debug_assert!(len * dtype.bytes() <= memory.bytes());
        Span {
            ptr: memory.as_ptr(),
            dtype,
            len,
            place: Place::Host,
            memory: PhantomData,
        }
    }
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    pub(crate) fn addresses(&self) -> Range<usize> {
        addresses(self.ptr, self.dtype, self.len)
    }
    pub(crate) fn place(&self) -> Place {
        self.place
    }
    /// `len` elements at an address on a GPU. Whoever makes it answers for the memory while `'a` lasts.
    pub(super) fn on_device(ptr: u64, ordinal: Option<u32>, dtype: Dtype, len: usize) -> Span<'a> {
        Span {
            ptr: std::ptr::without_provenance(ptr as usize),
            dtype,
            len,
            place: Place::Cuda(ordinal),
            memory: PhantomData,
        }
    }
    /// Its address for a kernel, which only reads it.
    pub(super) fn ptr(&self) -> *mut u8 {
        self.ptr.cast_mut()
    }
}

impl<'a> SpanMut<'a> {
    /// A slice.
    pub(crate) fn new<T: Element>(data: &'a mut [T]) -> SpanMut<'a> {
        SpanMut {
            ptr: data.as_mut_ptr().cast(),
            dtype: T::DTYPE,
            len: data.len(),
            place: Place::Host,
            memory: PhantomData,
        }
    }
    /// The first `len` elements of owned memory.
    pub(crate) fn of_memory(memory: &'a mut Memory, dtype: Dtype, len: usize) -> SpanMut<'a> {
        debug_assert!(len * dtype.bytes() <= memory.bytes());
        SpanMut {
            ptr: memory.as_mut_ptr(),
            dtype,
            len,
            place: Place::Host,
            memory: PhantomData,
        }
    }
    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    pub(crate) fn addresses(&self) -> Range<usize> {
        addresses(self.ptr, self.dtype, self.len)
    }
    pub(crate) fn place(&self) -> Place {
        self.place
    }
    /// `len` elements at an address on a GPU. Whoever makes it answers for the memory while `'a` lasts.
    pub(super) fn on_device(
        ptr: u64,
        ordinal: Option<u32>,
        dtype: Dtype,
        len: usize,
    ) -> SpanMut<'a> {
        SpanMut {
            ptr: std::ptr::without_provenance_mut(ptr as usize),
            dtype,
            len,
            place: Place::Cuda(ordinal),
            memory: PhantomData,
        }
    }
    /// The same elements, to read.
    pub(super) fn as_ref(&self) -> Span<'_> {
        Span {
            ptr: self.ptr,
            dtype: self.dtype,
            len: self.len,
            place: self.place,
            memory: PhantomData,
        }
    }
    /// The same elements for a shorter time.
    pub(crate) fn reborrow(&mut self) -> SpanMut<'_> {
        SpanMut { ..*self }
    }
    /// Every element set to `value`, rounded to its type.
    pub(crate) fn fill(&mut self, value: f64) {
        fn fill<T: Element>(span: &mut SpanMut<'_>, value: f64) {
            assert!(span.place == Place::Host);
            // SAFETY: the span is an exclusive borrow of `len` elements of its dtype, which is `T`'s.
            unsafe { std::slice::from_raw_parts_mut(span.ptr.cast::<T>(), span.len) }
                .fill(T::from_f64(value));
        }
        match self.dtype {
            Dtype::F32 => fill::<f32>(self, value),
            Dtype::F64 => fill::<f64>(self, value),
            Dtype::Bf16 => fill::<half::bf16>(self, value),
            Dtype::F16 => fill::<half::f16>(self, value),
        }
    }
    /// Every complex element set to `value`.
    pub(crate) fn fill_pairs(&mut self, value: f64) {
        fn fill<T: Element>(span: &mut SpanMut<'_>, value: f64) {
            assert!(span.place == Place::Host);
            let pair = [T::from_f64(value), T::from_f64(0.0)];
            // SAFETY: as in `fill`; a pair is two elements and is aligned as one.
            unsafe { std::slice::from_raw_parts_mut(span.ptr.cast::<[T; 2]>(), span.len / 2) }
                .fill(pair);
        }
        match self.dtype {
            Dtype::F32 => fill::<f32>(self, value),
            Dtype::F64 => fill::<f64>(self, value),
            Dtype::Bf16 => fill::<half::bf16>(self, value),
            Dtype::F16 => fill::<half::f16>(self, value),
        }
    }
    /// Its elements become those of `from`, which has as many of the same type.
    pub(crate) fn copy_from(&mut self, from: Span<'_>) {
        assert!(self.dtype == from.dtype && self.len == from.len);
        assert!(self.place == Place::Host && from.place == Place::Host);
        // SAFETY: both have that many bytes; `copy` allows them to be the same memory.
        unsafe { std::ptr::copy(from.ptr, self.ptr, self.len * self.dtype.bytes()) }
    }
    /// Its address for a kernel, which reads and writes it.
    pub(super) fn ptr(&mut self) -> *mut u8 {
        self.ptr
    }
}

impl<'a> TensorRef<'a> {
    /// A tensor at an address: memory of another library, or of another language.
    ///
    /// # Errors
    /// If the shape has more elements than an address space.
    ///
    /// # Safety
    /// `ptr` is aligned to its element and valid for reads of the shape's elements while `'a` lasts. Memory that
    /// an output of the same launch writes is found and refused.
    pub unsafe fn from_raw_parts(
        ptr: *const u8,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Self, Error> {
        let len = crate::buffer::elements(dtype, shape)?;
        let span = Span {
            ptr,
            dtype,
            len,
            place: Place::Host,
            memory: PhantomData,
        };
        Ok(TensorRef::from_span(span, shape))
    }
}

impl<'a> TensorMut<'a> {
    /// A tensor to write at an address: memory of another library, or of another language.
    ///
    /// # Errors
    /// If the shape has more elements than an address space.
    ///
    /// # Safety
    /// `ptr` is aligned to its element and valid for reads and writes of the shape's elements while `'a` lasts,
    /// by nobody else during a launch. Memory that another argument of the same launch has is found and refused.
    pub unsafe fn from_raw_parts(
        ptr: *mut u8,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Self, Error> {
        let len = crate::buffer::elements(dtype, shape)?;
        let span = SpanMut {
            ptr,
            dtype,
            len,
            place: Place::Host,
            memory: PhantomData,
        };
        Ok(TensorMut::from_span(span, shape))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Args, Cpu, CpuOptions, Kernel, Store};
    use selscan_dsl::Recurrence;

    const SHAPE: [usize; 2] = [3, 8];
    const LEN: usize = 24;

    fn kernel() -> Kernel {
        let text = "
            #[ssm_kernel]
            fn sums(x: Tensor<L, D>, w: Tensor<L, D>, h: State<D>) -> Tensor<L, D> { h = h + x * w; h }";
        let options = CpuOptions {
            threads: Some(1),
            store: Some(Store::none()),
            ..CpuOptions::default()
        };
        let cpu = Cpu::with_options(options).unwrap();
        cpu.kernel(Recurrence::parse(text).unwrap())
    }

    /// Views of `shape` at an offset of f32 elements.
    fn at<'a>(memory: *mut u8, offset: usize, shape: &[usize]) -> (TensorRef<'a>, TensorMut<'a>) {
        let ptr = memory.wrapping_add(4 * offset);
        // SAFETY: the tests' vectors are long enough, outlive the launches and are not used meanwhile.
        unsafe {
            (
                TensorRef::from_raw_parts(ptr, Dtype::F32, shape).unwrap(),
                TensorMut::from_raw_parts(ptr, Dtype::F32, shape).unwrap(),
            )
        }
    }

    #[test]
    fn an_output_in_the_memory_of_an_input_is_refused() {
        let kernel = kernel();
        let mut memory = vec![1f32; 3 * LEN];
        let memory = memory.as_mut_ptr().cast();
        for (offset, fits) in [
            (0, false),
            (1, false),
            (LEN - 1, false),
            (LEN, true),
            (2 * LEN, true),
        ] {
            // Two inputs may be one tensor.
            let x = at(memory, 0, &SHAPE).0;
            let args = Args::new().input("x", x.clone()).input("w", x);
            let launched = kernel.launch(args.output("out", at(memory, offset, &SHAPE).1));
            match launched {
                Ok(()) => assert!(fits, "{offset}"),
                Err(e) => {
                    assert!(!fits);
                    assert_eq!(
                        e.to_string(),
                        "the output `out` lies in the memory of the input `x`; give it memory of its own (only a state may \
                         be updated in place: `state_in_place`)"
                    );
                }
            }
        }
    }

    #[test]
    fn a_state_before_and_after_may_be_one_memory_but_not_two_that_overlap() {
        let kernel = kernel();
        let (x, mut out) = (vec![1f32; LEN], vec![f32::NAN; LEN]);
        let mut states = vec![5f32; 16];
        let memory = states.as_mut_ptr().cast();
        for offset in [1, 0] {
            let x = TensorRef::new(&x, &SHAPE).unwrap();
            let args = Args::new().input("x", x.clone()).input("w", x);
            let launched = kernel.launch(
                args.output("out", TensorMut::new(&mut out, &SHAPE).unwrap())
                    .initial("h", at(memory, 0, &[8]).0)
                    .last("h", at(memory, offset, &[8]).1),
            );
            assert_eq!(launched.is_ok(), offset == 0, "{launched:?}");
        }
        assert_eq!(states[..8], [8.0; 8]);
        assert_eq!(states[8..], [5.0; 8]);
        assert_eq!(out[LEN - 8..], [8.0; 8]);
    }
}
