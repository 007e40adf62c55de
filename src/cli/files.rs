//! Tensors in safetensors files. In: a file and the names of a kernel. Out: [`OwnedArgs`]; and results back into a
//! file that appears whole or not at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{SafeTensors, TensorView, serialize};
use selscan_codegen::Dtype;
use selscan_dsl::{InputKind, Recurrence};
use selscan_runtime::{Element, OwnedArgs, Tensor};

use super::failure::Failure;

/// What a file gave.
pub struct Loaded {
    /// The kernel's arguments.
    pub args: OwnedArgs,
    /// Tensors that the kernel has no use for.
    pub ignored: Vec<String>,
}

/// What a tensor is to a kernel.
enum Part {
    Input(String),
    Initial(String),
    SeqIdx,
}

/// Reads the tensors of a kernel, converted to `dtype` where one is asked for.
pub fn load(
    path: &Path,
    r: &Recurrence,
    flags: &[String],
    dtype: Option<Dtype>,
) -> Result<Loaded, Failure> {
    let contents = std::fs::read(path).map_err(|e| Failure::file("read", path, e))?;
    let file = SafeTensors::deserialize(&contents)
        .map_err(|e| Failure::file("read", path, format!("it is no safetensors file ({e})")))?;
    let mut names: Vec<&str> = file.names();
    names.sort_unstable();
    let mut args = OwnedArgs {
        output: dtype,
        ..OwnedArgs::default()
    };
    for flag in flags {
        let known = r
            .input_named(flag)
            .is_some_and(|i| r.input(i).kind == InputKind::Flag);
        if !known {
            return Err(Failure::Usage(format!("{} has no flag '{flag}'", r.name)));
        }
        args.flags.insert(flag.clone());
    }
    let mut used = Vec::new();
    for (wanted, part) in parts(r) {
        let exact = names.iter().find(|n| **n == wanted);
        let alike = || {
            // `A` for `a`, unless the kernel or the file means both.
            let mut alike = names.iter().filter(|n| n.eq_ignore_ascii_case(&wanted));
            let taken = |n: &str| parts(r).iter().any(|(other, _)| other == n);
            alike.next().filter(|n| alike.next().is_none() && !taken(n))
        };
        let Some(&name) = exact.or_else(alike) else {
            continue;
        };
        let view = file
            .tensor(name)
            .map_err(|e| Failure::file("read", path, e))?;
        let wrong = |why: String| Failure::file("use", path, format!("`{name}` {why}"));
        match part {
            Part::SeqIdx if args.seq_idx.is_none() => {
                args.seq_idx = Some((integers(&view).map_err(wrong)?, view.shape().to_vec()));
            }
            Part::Input(to) => {
                args.inputs.insert(to, tensor(&view, dtype).map_err(wrong)?);
            }
            Part::Initial(to) if !args.initial.contains_key(&to) => {
                args.initial
                    .insert(to, tensor(&view, dtype).map_err(wrong)?);
            }
            _ => continue,
        }
        used.push(name);
    }
    let ignored = names
        .into_iter()
        .filter(|n| !used.contains(n))
        .map(str::to_owned)
        .collect();
    Ok(Loaded { args, ignored })
}

/// The names under which a kernel's arguments are looked for, in order.
fn parts(r: &Recurrence) -> Vec<(String, Part)> {
    let inputs = r.inputs.iter().filter(|i| i.kind == InputKind::Tensor);
    let mut parts: Vec<(String, Part)> = inputs
        .map(|i| (i.name.clone(), Part::Input(i.name.clone())))
        .collect();
    for state in &r.states {
        parts.push((
            format!("initial_{}", state.name),
            Part::Initial(state.name.clone()),
        ));
    }
    let mut own = r.states.iter().filter(|s| !s.hidden);
    if let (Some(only), None) = (own.next(), own.next()) {
        parts.push(("initial_state".to_owned(), Part::Initial(only.name.clone())));
    }
    if r.input_named("seq_idx").is_none() {
        parts.push(("seq_idx".to_owned(), Part::SeqIdx));
    }
    parts
}

fn elements<const N: usize, T>(view: &TensorView<'_>, from: fn([u8; N]) -> T) -> Vec<T> {
    let each = view.data().chunks_exact(N);
    each.filter_map(|c| Some(from(c.try_into().ok()?)))
        .collect()
}

fn tensor(view: &TensorView<'_>, dtype: Option<Dtype>) -> Result<Tensor, String> {
    use safetensors::Dtype as D;
    let mut shape = view.shape().to_vec();
    let tensor = match view.dtype() {
        D::F32 => Tensor::from_slice(&elements(view, f32::from_le_bytes), &shape),
        D::F64 => Tensor::from_slice(&elements(view, f64::from_le_bytes), &shape),
        D::BF16 => Tensor::from_slice(&elements(view, bf16::from_le_bytes), &shape),
        D::F16 => Tensor::from_slice(&elements(view, f16::from_le_bytes), &shape),
        D::C64 => {
            shape.push(2);
            Tensor::from_slice(&elements(view, f32::from_le_bytes), &shape)
        }
        other => {
            return Err(format!(
                "is {other:?}; kernels take F32, F64, BF16 and F16 (and C64 for complex inputs): convert it"
            ));
        }
    };
    let tensor = tensor.map_err(|e| e.to_string())?;
    match dtype {
        Some(dtype) if dtype != tensor.dtype() => {
            Tensor::from_f64(dtype, tensor.shape(), &tensor.to_f64()).map_err(|e| e.to_string())
        }
        _ => Ok(tensor),
    }
}

fn integers(view: &TensorView<'_>) -> Result<Vec<i32>, String> {
    use safetensors::Dtype as D;
    let wide: Vec<i64> = match view.dtype() {
        D::I64 => elements(view, i64::from_le_bytes),
        D::I32 => elements(view, i32::from_le_bytes)
            .into_iter()
            .map(i64::from)
            .collect(),
        D::I16 => elements(view, i16::from_le_bytes)
            .into_iter()
            .map(i64::from)
            .collect(),
        D::U8 => elements(view, u8::from_le_bytes)
            .into_iter()
            .map(i64::from)
            .collect(),
        other => {
            return Err(format!(
                "is {other:?}; sequence indices are I64, I32, I16 or U8"
            ));
        }
    };
    let narrow = |i: i64| {
        i32::try_from(i).map_err(|_| format!("has the index {i}, which is no 32-bit integer"))
    };
    wide.into_iter().map(narrow).collect()
}

/// A file to be written: made at once, so that what can't be written is known before the work; in its place only
/// when it is whole.
pub struct Pending {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

impl Pending {
    /// A file that will be at `path`.
    pub fn new(path: &Path) -> Result<Pending, Failure> {
        let fail = |why: &dyn std::fmt::Display| Failure::file("write", path, why);
        // A link is followed, not replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        match std::fs::metadata(&path) {
            Ok(found) if !found.is_file() => {
                return Err(fail(&"it is there and is no ordinary file"));
            }
            Ok(found) if found.permissions().readonly() => {
                return Err(fail(&"it is there and is read-only"));
            }
            _ => {}
        }
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".selscan-");
        #[cfg(unix)]
        {
            // As any new file has; the builder's own would be the owner's alone.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).map_err(|e| fail(&e))?;
        Ok(Pending { file, path })
    }

    /// Writes the tensors and puts the file in its place.
    pub fn write(
        mut self,
        kernel: &str,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<(), Failure> {
        let path = self.path.clone();
        let contents = contents(kernel, tensors).map_err(|e| Failure::file("write", &path, e))?;
        let written = self
            .file
            .write_all(&contents)
            .and_then(|()| self.file.as_file().sync_all());
        let placed = written.and_then(|()| self.file.persist(&path).map_err(|e| e.error));
        placed
            .map(drop)
            .map_err(|e| Failure::file("write", &path, e))
    }
}

/// Tensors as the bytes of a safetensors file.
fn contents(kernel: &str, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, String> {
    struct View<'a>(&'a Tensor);
    impl safetensors::View for View<'_> {
        fn dtype(&self) -> safetensors::Dtype {
            match self.0.dtype() {
                Dtype::F32 => safetensors::Dtype::F32,
                Dtype::F64 => safetensors::Dtype::F64,
                Dtype::Bf16 => safetensors::Dtype::BF16,
                Dtype::F16 => safetensors::Dtype::F16,
            }
        }
        fn shape(&self) -> &[usize] {
            self.0.shape()
        }
        fn data(&self) -> Cow<'_, [u8]> {
            fn bytes<T: Element, const N: usize>(tensor: &Tensor, to: fn(T) -> [u8; N]) -> Vec<u8> {
                let elements = tensor.as_slice::<T>().unwrap_or_default();
                elements.iter().flat_map(|&x| to(x)).collect()
            }
            Cow::Owned(match self.0.dtype() {
                Dtype::F32 => bytes(self.0, f32::to_le_bytes),
                Dtype::F64 => bytes(self.0, f64::to_le_bytes),
                Dtype::Bf16 => bytes(self.0, bf16::to_le_bytes),
                Dtype::F16 => bytes(self.0, f16::to_le_bytes),
            })
        }
        fn data_len(&self) -> usize {
            self.0.len() * self.0.dtype().bytes()
        }
    }
    let views = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), View(tensor)));
    let about = HashMap::from([("kernel".to_owned(), kernel.to_owned())]);
    serialize(views, Some(about)).map_err(|e| e.to_string())
}
