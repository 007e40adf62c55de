//! Time on a GPU: moments of a stream, and how long it took from one to another.

use std::ffi::c_int;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent, CUresult};

use super::driver::{check, cu};
use super::{Cuda, Gpu};
use crate::error::Error;

/// A moment of a stream: when everything that was queued before it was done.
pub struct Event {
    gpu: Arc<Gpu>,
    raw: CUevent,
}

// SAFETY: events may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_entered) = self.gpu.context.enter() {
            // SAFETY: made in `Cuda::event`, destroyed once.
            let _ = unsafe { cu!(cuEventDestroy_v2(self.raw)) };
        }
    }
}

impl Cuda {
    /// The moment when everything that has been queued so far is done.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn event(&self) -> Result<Event, Error> {
        let _entered = self.enter()?;
        let mut event = Event {
            gpu: self.gpu.clone(),
            raw: std::ptr::null_mut(),
        };
        // SAFETY: it writes one pointer.
        unsafe { cu!(cuEventCreate(&raw mut event.raw, 0)) }?;
        // SAFETY: the event and the stream are alive.
        unsafe { cu!(cuEventRecord(event.raw, self.stream())) }?;
        Ok(event)
    }
}

impl Event {
    /// Waits for the moment.
    ///
    /// # Errors
    /// As [`Cuda::synchronize`].
    pub fn synchronize(&self) -> Result<(), Error> {
        let _entered = self.gpu.context.enter()?;
        // SAFETY: the event is alive.
        unsafe { cu!(cuEventSynchronize(self.raw)) }
    }

    /// Waits for the moment; seconds since an earlier one of the same GPU, to about half a microsecond.
    ///
    /// # Errors
    /// As [`Cuda::synchronize`].
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64, Error> {
        type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> c_int;
        self.synchronize()?;
        let _entered = self.gpu.context.enter()?;
        let mut milliseconds = 0.0;
        // cudarc only knows the call's second version, which drivers older than 12.8 lack.
        // SAFETY: the driver is loaded, and the function has this signature in every version of it.
        let elapsed = unsafe { sys::culib().get::<Elapsed>("cuEventElapsedTime") };
        let elapsed = elapsed.map_err(|e| Error::Cuda {
            call: "cuEventElapsedTime",
            name: "not found".to_owned(),
            text: e.to_string(),
            kernel: None,
        })?;
        // SAFETY: both events are recorded and done, and one number is written.
        let result = unsafe { elapsed(&raw mut milliseconds, earlier.raw, self.raw) };
        if result != 0 {
            check("cuEventElapsedTime", CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        }
        Ok(f64::from(milliseconds) / 1e3)
    }
}
