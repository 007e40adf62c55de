//! The CUDA driver: whether it is there, its version, and its calls as Results.
//!
//! In: a call. Out: what it gives, or an [`Error`] with the call and the driver's own words. Nothing here is touched on
//! a machine without a driver but [`present`].

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUresult};

use crate::error::Error;

/// The oldest driver that has every call made here.
const OLDEST: (u32, u32) = (12, 0);

/// Calls the driver: `cu!(cuMemFree_v2(ptr))`, in an `unsafe` block that says why it may be called.
macro_rules! cu {
    ($name:ident($($arg:expr),* $(,)?)) => {
        $crate::device::cuda::driver::check(stringify!($name), ::cudarc::driver::sys::$name($($arg),*))
    };
}
pub(super) use cu;

/// A call's result.
pub(super) fn check(call: &'static str, result: CUresult) -> Result<(), Error> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |say: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: both functions write the address of a text that lives as long as the driver, or null.
        let said = unsafe { say(result, &raw mut text) };
        if said != CUresult::CUDA_SUCCESS || text.is_null() {
            return format!("error {}", result as u32);
        }
        // SAFETY: it is a text that ends in NUL.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    };
    Err(Error::Cuda {
        // The versions of the calls are the driver's affair.
        call: call.trim_end_matches("_v2"),
        name: text(sys::cuGetErrorName),
        text: text(sys::cuGetErrorString),
        kernel: None,
    })
}

/// Names the kernel that a failed call was about.
pub(super) fn about(kernel: &str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Cuda {
            call, name, text, ..
        } => Error::Cuda {
            call,
            name,
            text,
            kernel: Some(kernel.to_owned()),
        },
        other => other,
    }
}

/// Whether a call failed with that error.
pub(super) fn failed_with(error: &Error, wanted: &[&str]) -> bool {
    matches!(error, Error::Cuda { name, .. } if wanted.contains(&name.as_str()))
}

/// Whether there is a driver.
fn present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: it opens the driver's library, whose initialisers only set up its own data.
    *PRESENT.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// Makes the driver ready; gives its version, the newest CUDA that it runs.
pub(super) fn init() -> Result<(u32, u32), Error> {
    if !present() {
        return Err(Error::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the driver is there; this call needs no initialisation and writes one integer.
    unsafe { cu!(cuDriverGetVersion(&raw mut version)) }?;
    let version = version.unsigned_abs();
    let found = (version / 1000, version % 1000 / 10);
    if found < OLDEST {
        return Err(Error::OldDriver {
            found,
            wanted: OLDEST,
            why: "selscan needs".to_owned(),
        });
    }
    // SAFETY: may be called any number of times.
    match unsafe { cu!(cuInit(0)) } {
        Err(e) if failed_with(&e, &["CUDA_ERROR_NO_DEVICE"]) => {}
        done => done?,
    }
    Ok(found)
}

/// The GPU of an ordinal. The driver is ready.
pub(super) fn device(ordinal: u32) -> Result<CUdevice, Error> {
    let mut count = 0;
    // SAFETY: it writes one integer.
    match unsafe { cu!(cuDeviceGetCount(&raw mut count)) } {
        // So `cuInit` says on a machine with a driver and no GPU.
        Err(e) if failed_with(&e, &["CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_NOT_INITIALIZED"]) => {}
        counted => counted?,
    }
    let count = count.unsigned_abs();
    if ordinal >= count {
        return Err(Error::NoGpu { ordinal, count });
    }
    let mut device = 0;
    // SAFETY: it writes one integer.
    unsafe { cu!(cuDeviceGet(&raw mut device, ordinal as i32)) }?;
    Ok(device)
}

/// A GPU's name.
pub(super) fn name(device: CUdevice) -> Result<String, Error> {
    let mut name = [0u8; 256];
    // SAFETY: it writes at most that many bytes, the last a NUL.
    unsafe { cu!(cuDeviceGetName(name.as_mut_ptr().cast(), 256, device)) }?;
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// An attribute of a GPU.
pub(super) fn attribute(device: CUdevice, which: CUdevice_attribute) -> Result<u32, Error> {
    let mut value = 0;
    // SAFETY: it writes one integer.
    unsafe { cu!(cuDeviceGetAttribute(&raw mut value, which, device)) }?;
    Ok(value.unsigned_abs())
}

/// A GPU's primary context: the one that PyTorch, candle and CUDA's runtime use too.
pub(super) struct Context {
    device: CUdevice,
    context: CUcontext,
}

// SAFETY: contexts may be used from any thread; a thread makes one current before it calls.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Holds on to a GPU's primary context.
    pub(super) fn retain(device: CUdevice) -> Result<Context, Error> {
        let mut context = std::ptr::null_mut();
        // SAFETY: it writes one pointer.
        unsafe { cu!(cuDevicePrimaryCtxRetain(&raw mut context, device)) }?;
        Ok(Context { device, context })
    }

    /// Makes it the calling thread's context until the guard is dropped: other libraries on the thread then find their
    /// own again.
    pub(super) fn enter(&self) -> Result<Entered, Error> {
        let mut before = std::ptr::null_mut();
        // SAFETY: it writes one pointer, null where the thread has none.
        unsafe { cu!(cuCtxGetCurrent(&raw mut before)) }?;
        if before == self.context {
            return Ok(Entered { before: None });
        }
        // SAFETY: the context is retained.
        unsafe { cu!(cuCtxSetCurrent(self.context)) }?;
        Ok(Entered {
            before: Some(before),
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. An error would be of a driver that is shutting down.
        let _ = unsafe { cu!(cuDevicePrimaryCtxRelease_v2(self.device)) };
    }
}

/// While it lives, the thread's context is the one that was entered.
#[must_use]
pub(super) struct Entered {
    before: Option<CUcontext>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: it was the thread's context; null is none.
            let _ = unsafe { cu!(cuCtxSetCurrent(before)) };
        }
    }
}
