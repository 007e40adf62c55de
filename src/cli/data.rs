//! Made-up data: the same in every run and on every machine. In: a kernel, extents, which optional inputs to leave
//! out, where values lie. Out: [`OwnedArgs`].

use std::collections::BTreeSet;

use selscan_codegen::Dtype;
use selscan_codegen::structure::Structure;
use selscan_dsl::{AxisId, Extents, InputKind, Node, Recurrence, prepare};
use selscan_runtime::{OwnedArgs, Tensor};

use super::args::KernelArgs;
use super::failure::Failure;
use super::source::Source;

/// The extents of made-up data: as `--shape` says, else as is typical for the model, else by the axis's part in the
/// kernel: 1 for an axis B, 2048 steps, 256 for other parallel axes, 16 for those within.
pub fn extents(source: &Source, shape: &[(String, usize)]) -> Result<Extents, Failure> {
    let r = &source.recurrence;
    for (i, (name, _)) in shape.iter().enumerate() {
        let Some(axis) = r.axis_named(name) else {
            let names: Vec<&str> = r.axes.iter().map(|a| a.name.as_str()).collect();
            return Err(Failure::Usage(format!(
                "{} has no axis '{name}'; it has {}",
                r.name,
                names.join(", ")
            )));
        };
        if r.canonical(axis) != axis {
            let of = r.axis_name(r.canonical(axis));
            return Err(Failure::Usage(format!(
                "axis {name} has the extent of {of}: say --shape {of}=…"
            )));
        }
        if shape[..i].iter().any(|(other, _)| other == name) {
            return Err(Failure::Usage(format!(
                "--shape says the extent of {name} twice"
            )));
        }
    }
    let scans = prepare(r, &|_| true, false);
    let parallel: Vec<AxisId> = scans
        .first()
        .map_or(vec![], |s| Structure::of(&s.recurrence).parallel);
    let extent = |axis: AxisId| {
        let axis = r.canonical(axis);
        let name = r.axis_name(axis);
        let said = shape
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, extent)| *extent);
        let typical = || {
            source
                .model?
                .typical
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, extent)| *extent)
        };
        said.or_else(typical).unwrap_or(match () {
            () if name == "B" => 1,
            () if axis == r.time => 2048,
            () if parallel.contains(&axis) => 256,
            () => 16,
        })
    };
    Ok(Extents(
        (0..r.axes.len()).map(|i| extent(AxisId(i as u8))).collect(),
    ))
}

/// The optional inputs and flags that made-up data has: all that are not left out, as far as they are then read.
pub fn given(r: &Recurrence, without: &[String]) -> Result<BTreeSet<String>, Failure> {
    for name in without {
        let Some(input) = r.input_named(name) else {
            return Err(Failure::Usage(format!(
                "{} has no input '{name}' to leave out",
                r.name
            )));
        };
        if !r.input(input).optional && r.input(input).kind == InputKind::Tensor {
            return Err(Failure::Usage(format!(
                "the input '{name}' of {} is not optional",
                r.name
            )));
        }
    }
    let offered = |name: &str| !without.iter().any(|w| w == name);
    let special = r.specialize(&offered);
    let read: BTreeSet<&str> = special
        .graph
        .reachable(&special.roots())
        .into_iter()
        .filter_map(|id| match special.graph.node(id) {
            Node::Input { input, .. } => Some(special.input(*input).name.as_str()),
            _ => None,
        })
        .collect();
    let has = r.inputs.iter().filter(|i| match i.kind {
        InputKind::Flag => offered(&i.name),
        InputKind::Tensor => !i.optional || read.contains(i.name.as_str()),
    });
    Ok(has.map(|i| i.name.clone()).collect())
}

/// Data of one type for the inputs that `given` names.
pub fn make(
    source: &Source,
    args: &KernelArgs,
    extents: &Extents,
    dtype: Dtype,
) -> Result<OwnedArgs, Failure> {
    let r = &source.recurrence;
    for (name, ..) in &args.range {
        if r.input_named(name).is_none() {
            return Err(Failure::Usage(format!(
                "{} has no input '{name}' for --range",
                r.name
            )));
        }
    }
    let given = given(r, &args.without)?;
    let mut out = OwnedArgs {
        output: Some(dtype),
        ..OwnedArgs::default()
    };
    for input in r.inputs.iter().filter(|i| given.contains(&i.name)) {
        if input.kind == InputKind::Flag {
            out.flags.insert(input.name.clone());
            continue;
        }
        let said = args
            .range
            .iter()
            .find(|(n, ..)| *n == input.name)
            .map(|&(_, low, high)| (low, high));
        let range = said
            .or_else(|| source.model.map(|m| m.range(&input.name)))
            .unwrap_or((-1.0, 1.0));
        let mut shape = extents.shape(&input.axes);
        shape.extend(input.complex.then_some(2));
        let mut tensor = Tensor::zeros(dtype, &shape)?;
        fill(&mut tensor, &input.name, range);
        out.inputs.insert(input.name.clone(), tensor);
    }
    Ok(out)
}

/// Uniform numbers in [low, high], from the name.
fn fill(tensor: &mut Tensor, name: &str, (low, high): (f64, f64)) {
    // FNV-1a of the name, then SplitMix64 (Steele, Lea & Flood 2014).
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = |i: usize| {
        let mut x = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        low + (high - low) * unit
    };
    fn each<T: selscan_runtime::Element>(tensor: &mut Tensor, number: impl Fn(usize) -> f64) {
        let elements = tensor.as_mut_slice::<T>().unwrap_or_default();
        elements
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = T::from_f64(number(i)));
    }
    match tensor.dtype() {
        Dtype::F32 => each::<f32>(tensor, number),
        Dtype::F64 => each::<f64>(tensor, number),
        Dtype::Bf16 => each::<half::bf16>(tensor, number),
        Dtype::F16 => each::<half::f16>(tensor, number),
    }
}
