//! Memory of a GPU: owned, and what is done to memory in the order of a stream.
//!
//! In: bytes, addresses, values. Out: [`DeviceMemory`], copies between host and GPU, fills.

use std::sync::Arc;

use half::{bf16, f16};
use selscan_codegen::Dtype;

use super::driver::{cu, failed_with};
use super::{APART, Cuda, Gpu};
use crate::device::memory::{Span, SpanMut};
use crate::error::Error;

/// Owned bytes of a GPU, aligned to 256.
pub(crate) struct DeviceMemory {
    gpu: Arc<Gpu>,
    /// 0 where there are no bytes.
    ptr: u64,
    bytes: usize,
}

impl DeviceMemory {
    /// `bytes` bytes, whatever they hold; [`Error::DeviceMemory`] if the GPU does not have them.
    pub(super) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<DeviceMemory, Error> {
        let mut memory = DeviceMemory {
            gpu: gpu.clone(),
            ptr: 0,
            bytes,
        };
        if bytes == 0 {
            return Ok(memory);
        }
        let _entered = gpu.context.enter()?;
        // SAFETY: it writes one address.
        let made = unsafe { cu!(cuMemAlloc_v2(&raw mut memory.ptr, bytes)) };
        made.map_err(|error| {
            memory.ptr = 0;
            if !failed_with(&error, &["CUDA_ERROR_OUT_OF_MEMORY"]) {
                return error;
            }
            let (mut free, mut total) = (0, 0);
            // SAFETY: it writes two sizes; if it fails they stay 0.
            let _ = unsafe { cu!(cuMemGetInfo_v2(&raw mut free, &raw mut total)) };
            Error::DeviceMemory {
                device: format!("cuda:{}", gpu.ordinal),
                bytes,
                free,
                total,
            }
        })?;
        Ok(memory)
    }
    /// Its address.
    pub(super) fn ptr(&self) -> u64 {
        self.ptr
    }
    /// How many bytes it has.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.ptr == 0 {
            return;
        }
        if let Some(held) = self
            .gpu
            .graph_with(&(self.ptr..self.ptr + self.bytes as u64))
        {
            held.keep(DeviceMemory {
                gpu: self.gpu.clone(),
                ..*self
            });
            return;
        }
        if let Ok(_entered) = self.gpu.context.enter() {
            // SAFETY: allocated in `new`, freed once. The driver waits for work that uses it; an error would be an earlier
            // one of the work itself, which `synchronize` tells.
            let _ = unsafe { cu!(cuMemFree_v2(self.ptr)) };
        }
    }
}

/// The bytes of an element.
fn element(dtype: Dtype, value: f64) -> Vec<u8> {
    match dtype {
        Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
        Dtype::F64 => value.to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
    }
}

impl Cuda {
    /// Copies from the host's memory. The caller may change `from` once this returns, for the driver stages it; if `from` is
    /// page-locked, once the stream is synchronised.
    pub(in crate::device) fn upload(&self, from: &Span<'_>, to: u64) -> Result<(), Error> {
        let bytes = from.addresses().len();
        if bytes == 0 {
            return Ok(());
        }
        self.not_while_capturing("a copy from the host's memory was asked for", APART)?;
        let _entered = self.enter()?;
        // SAFETY: both have that many bytes, by the span's borrow and the callers' promise for `to`.
        unsafe {
            cu!(cuMemcpyHtoDAsync_v2(
                to,
                from.ptr().cast(),
                bytes,
                self.stream()
            ))
        }
    }

    /// Copies to the host's memory; it is there once the stream is synchronised, as every caller does.
    pub(super) fn download(&self, from: u64, to: &mut SpanMut<'_>) -> Result<(), Error> {
        let bytes = to.addresses().len();
        if bytes == 0 {
            return Ok(());
        }
        self.not_while_capturing("a copy to the host's memory was asked for", APART)?;
        let _entered = self.enter()?;
        // SAFETY: both have that many bytes, by the span's borrow and the callers' promise for `from`.
        unsafe {
            cu!(cuMemcpyDtoHAsync_v2(
                to.ptr().cast(),
                from,
                bytes,
                self.stream()
            ))
        }
    }

    /// Copies on the GPU. Equal addresses are left alone.
    pub(super) fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), Error> {
        if bytes == 0 || from == to {
            return Ok(());
        }
        self.record(|held| {
            held.add_range(from..from + bytes as u64);
            held.add_range(to..to + bytes as u64);
        });
        let _entered = self.enter()?;
        // SAFETY: both have that many bytes, as the callers promise.
        unsafe { cu!(cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream())) }
    }

    /// Sets every byte.
    pub(super) fn set_bytes(&self, at: u64, bytes: usize, value: u8) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        self.record(|held| held.add_range(at..at + bytes as u64));
        let _entered = self.enter()?;
        // SAFETY: it has that many bytes, as the callers promise.
        unsafe { cu!(cuMemsetD8Async(at, value, bytes, self.stream())) }
    }

    /// The elements of `to` become those of `from`, which has as many of the same type; both on this GPU.
    pub(crate) fn copy_span(&self, from: &Span<'_>, to: &mut SpanMut<'_>) -> Result<(), Error> {
        let bytes = to.addresses().len();
        assert!(from.addresses().len() == bytes && from.dtype() == to.dtype());
        self.copy(
            from.addresses().start as u64,
            to.addresses().start as u64,
            bytes,
        )
    }

    /// Every element (every pair, where `pairs`: real part `value`, imaginary part 0) set to `value`, rounded to its type.
    pub(crate) fn fill_span(
        &self,
        to: &mut SpanMut<'_>,
        value: f64,
        pairs: bool,
    ) -> Result<(), Error> {
        let mut pattern = element(to.dtype(), value);
        if pairs {
            pattern.extend(element(to.dtype(), 0.0));
        }
        let at = to.addresses();
        self.fill(at.start as u64, at.len() / pattern.len(), &pattern)
    }

    /// `count` copies of a pattern of 2, 4, 8 or 16 bytes.
    fn fill(&self, at: u64, count: usize, pattern: &[u8]) -> Result<(), Error> {
        if count == 0 {
            return Ok(());
        }
        self.record(|held| held.add_range(at..at + (count * pattern.len()) as u64));
        let _entered = self.enter()?;
        let stream = self.stream();
        if let [low, high] = *pattern {
            let value = u16::from_le_bytes([low, high]);
            // SAFETY: it has that many elements of 2 bytes, as the callers promise.
            return unsafe { cu!(cuMemsetD16Async(at, value, count, stream)) };
        }
        let words: Vec<u32> = pattern
            .chunks_exact(4)
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect();
        if words.iter().all(|w| *w == words[0]) {
            // SAFETY: it has that many elements of 4 bytes.
            return unsafe { cu!(cuMemsetD32Async(at, words[0], count * words.len(), stream)) };
        }
        // A column of words at a time.
        for (i, &word) in words.iter().enumerate() {
            // SAFETY: `count` rows of `pattern.len()` bytes, of which one word is set.
            unsafe {
                cu!(cuMemsetD2D32Async(
                    at + 4 * i as u64,
                    pattern.len(),
                    word,
                    1,
                    count,
                    stream
                ))
            }?;
        }
        Ok(())
    }
}
