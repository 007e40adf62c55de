//! Where tensors are, and whether those of a launch are where its kernel runs.
//!
//! In: arguments, a device. Out: [`Staging`], or which tensors are in the wrong place.

use crate::args::Args;
use crate::device::DeviceName;
use crate::error::Error;

/// Kernels on a GPU move that many bytes at once.
const ALIGN: usize = 16;

/// Where memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// The host's memory.
    Host,
    /// A GPU's: that of the ordinal, or the one that the kernel runs on where the caller only gave an address.
    Cuda(Option<u32>),
}

/// What has to be done before a launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Staging {
    /// The tensors are where the kernel runs.
    InPlace,
    /// They are in the host's memory, and the kernel runs on a GPU.
    FromHost,
}

/// One tensor of a launch.
struct Tensor<'s> {
    what: &'static str,
    name: &'s str,
    place: Place,
    address: usize,
    empty: bool,
}

impl Tensor<'_> {
    fn odd(&self) -> String {
        let place = match self.place {
            Place::Host => "in the host's memory".to_owned(),
            Place::Cuda(Some(ordinal)) => format!("on cuda:{ordinal}"),
            Place::Cuda(None) => "at a device pointer".to_owned(),
        };
        format!("the {} `{}` is {place}", self.what, self.name)
    }
}

fn tensors<'s>(args: &'s Args<'_>) -> Vec<Tensor<'s>> {
    let mut all = Vec::new();
    let reads = [("input", &args.inputs), ("initial state", &args.initial)];
    for (what, given) in reads {
        all.extend(given.iter().map(|(name, t)| {
            let span = t.span();
            let (place, at) = (span.place(), span.addresses());
            Tensor {
                what,
                name,
                place,
                address: at.start,
                empty: at.is_empty(),
            }
        }));
    }
    let writes = [
        ("last state", &args.last),
        ("state", &args.in_place),
        ("output", &args.outputs),
    ];
    for (what, given) in writes {
        all.extend(given.iter().map(|(name, t)| {
            let span = t.span();
            let (place, at) = (span.place(), span.addresses());
            Tensor {
                what,
                name,
                place,
                address: at.start,
                empty: at.is_empty(),
            }
        }));
    }
    all
}

/// Whether all tensors are where a kernel on `device` finds them.
pub(crate) fn check(kernel: &str, args: &Args<'_>, device: DeviceName) -> Result<Staging, Error> {
    let all = tensors(args);
    let wrong = |is_odd: &dyn Fn(Place) -> bool, remedy: String| {
        let odd: Vec<String> = all
            .iter()
            .filter(|t| is_odd(t.place))
            .map(Tensor::odd)
            .collect();
        Err(Error::Placement {
            kernel: kernel.to_owned(),
            device: device.to_string(),
            odd: odd.join(", "),
            remedy,
        })
    };
    let any = |is: &dyn Fn(Place) -> bool| all.iter().any(|t| is(t.place));
    let on_host = |place: Place| place == Place::Host;
    let DeviceName::Cuda(own) = device else {
        return if any(&|p| !on_host(p)) {
            let remedy =
                "copy it to the host (`DeviceTensor::to_tensor`), or make the kernel on that GPU";
            wrong(&|p| !on_host(p), remedy.to_owned())
        } else {
            Ok(Staging::InPlace)
        };
    };
    let elsewhere = |place: Place| matches!(place, Place::Cuda(Some(ordinal)) if ordinal != own);
    if any(&elsewhere) {
        return wrong(
            &elsewhere,
            format!("copy it to {device}, or make the kernel on that GPU"),
        );
    }
    if all.iter().all(|t| t.place == Place::Host) {
        return Ok(Staging::FromHost);
    }
    if any(&on_host) {
        let remedy = "copy it to the GPU (`DeviceTensor::from_tensor`), or pass every tensor from the host's memory";
        return wrong(&on_host, remedy.to_owned());
    }
    match all
        .iter()
        .find(|t| !t.empty && !t.address.is_multiple_of(ALIGN))
    {
        None => Ok(Staging::InPlace),
        Some(tensor) => Err(Error::Misaligned {
            what: tensor.what,
            name: tensor.name.to_owned(),
            address: tensor.address as u64,
        }),
    }
}
