//! The reference data of tests/golden: reading a file, and fitting its tensors to a kernel's declarations.

pub mod block;
pub mod composed;
pub mod gradients;
pub mod language;
pub mod packing;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use selscan_dsl::{Array, AxisId, InputKind, Inputs, Outputs, Recurrence};
use selscan_models::Model;

/// The folder of the files.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A tensor with named axes; the pair of a complex element is not one of them.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    pub axes: Vec<String>,
    pub array: Array,
}

impl Tensor {
    pub fn real(axes: &str, shape: &[usize], data: Vec<f64>) -> Tensor {
        Tensor {
            axes: axes.split_whitespace().map(str::to_owned).collect(),
            array: Array::real(shape, data),
        }
    }
    pub fn complex(axes: &str, shape: &[usize], data: Vec<f64>) -> Tensor {
        Tensor {
            array: Array::complex(shape, data),
            ..Tensor::real(axes, &[], vec![])
        }
    }
    /// How long an axis is.
    pub fn extent(&self, axis: &str) -> usize {
        let at = self.axes.iter().position(|a| a == axis);
        self.array.shape[at.unwrap_or_else(|| panic!("no axis {axis} in {:?}", self.axes))]
    }
    /// The part of the tensor in a range of positions on an axis.
    pub fn slice(&self, axis: &str, range: Range<usize>) -> Tensor {
        let at = self.axes.iter().position(|a| a == axis).unwrap();
        let mut part = self.clone();
        part.array = self.array.slice(at, range);
        part
    }
    /// The tensor cut into `count` equal parts along an axis.
    pub fn cut(&self, axis: &str, count: usize) -> Vec<Tensor> {
        let own = self.extent(axis) / count;
        (0..count)
            .map(|k| self.slice(axis, k * own..(k + 1) * own))
            .collect()
    }
    /// The tensor with its last axis made `extent` long: zeros are put in front, or entries taken from there.
    pub fn fit_last(&mut self, extent: usize) {
        let width = if self.array.complex { 2 } else { 1 };
        let old = *self.array.shape.last().unwrap();
        let resize = |row: &[f64]| {
            let missing = (extent * width).saturating_sub(row.len());
            let mut new = vec![0.0; missing];
            new.extend(&row[row.len().saturating_sub(extent * width)..]);
            new
        };
        self.array.data = self
            .array
            .data
            .chunks(old * width)
            .flat_map(resize)
            .collect();
        *self.array.shape.last_mut().unwrap() = extent;
    }
    /// Pairs of neighbours on the last axis as complex numbers.
    pub fn pairs(&mut self) {
        self.array.complex = true;
        *self.array.shape.last_mut().unwrap() /= 2;
    }
    /// The array over the axes of a declaration: axes are matched by name (`names`, or in upper case),
    /// put into its order, and axes of extent 1 come and go.
    pub fn over(&self, r: &Recurrence, axes: &[AxisId], names: &[(&str, &str)]) -> Array {
        let wanted: Vec<&str> = axes.iter().map(|&a| r.axis_name(a)).collect();
        let mut kept = Vec::new();
        for (i, axis) in self.axes.iter().enumerate() {
            let renamed = names.iter().find(|(from, _)| from == axis);
            let name = renamed.map_or_else(|| axis.to_uppercase(), |(_, to)| (*to).to_owned());
            match wanted.iter().position(|w| *w == name) {
                Some(at) => kept.push((at, i)),
                None => assert_eq!(self.array.shape[i], 1, "no axis {name} in {wanted:?}"),
            }
        }
        let dropped = (0..self.axes.len()).filter(|i| kept.iter().all(|(_, k)| k != i));
        let mut sorted = kept.clone();
        sorted.sort_unstable();
        let order: Vec<usize> = dropped.chain(sorted.iter().map(|&(_, i)| i)).collect();
        let mut array = self.array.permuted(&order);
        let extent = |at: usize| {
            kept.iter()
                .find(|(a, _)| *a == at)
                .map_or(1, |&(_, i)| self.array.shape[i])
        };
        array.shape = (0..wanted.len()).map(extent).collect();
        array
    }
}

/// The tensors of a file by name, complex ones with a last axis of 2.
pub fn tensors(path: &str) -> BTreeMap<String, Array> {
    let bytes = std::fs::read(folder().join(path)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), decode(&view)))
        .collect()
}

fn decode(view: &TensorView) -> Array {
    let number = |b: &[u8]| match view.dtype() {
        Dtype::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
        Dtype::F64 => f64::from_le_bytes(b.try_into().unwrap()),
        Dtype::I32 => f64::from(i32::from_le_bytes(b.try_into().unwrap())),
        Dtype::I64 => i64::from_le_bytes(b.try_into().unwrap()) as f64,
        other => panic!("tensors of type {other:?} are not expected"),
    };
    let data = view
        .data()
        .chunks(view.dtype().bitsize() / 8)
        .map(number)
        .collect();
    Array::real(view.shape(), data)
}

/// A file: the inputs that the reference was given and the results of its run in f64.
#[derive(Clone, Debug)]
pub struct Golden {
    pub name: String,
    pub flags: serde_json::Value,
    pub inputs: BTreeMap<String, Tensor>,
    pub outputs: BTreeMap<String, Tensor>,
    /// Of outputs, by their names.
    pub cotangents: BTreeMap<String, Tensor>,
    /// By inputs, by their names.
    pub gradients: BTreeMap<String, Tensor>,
    /// By tensor of the file: the error that a result in f32 may have.
    pub tols: BTreeMap<String, f64>,
}

impl Golden {
    /// Reads `name`.safetensors.
    pub fn read(name: &str) -> Golden {
        let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let header = header.metadata().clone().unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |stored: &str, name: &str| {
            let array = decode(&file.tensor(stored).unwrap());
            let axes = &header[&format!("axes.{name}")];
            let mut tensor = Tensor::real(axes, &array.shape, array.data);
            if tensor.axes.last().is_some_and(|a| a == "ri") {
                tensor.axes.pop();
                tensor.array.shape.pop();
                tensor.array.complex = true;
            }
            (name.to_owned(), tensor)
        };
        let names = |key: &str| {
            let names = header.get(key).map_or("", String::as_str);
            let names = names.split_whitespace().map(str::to_owned);
            names.collect::<Vec<_>>()
        };
        let f64_of = |name: &String| {
            let stored = format!("{name}_f64");
            let only = header["precision"] == "f64";
            tensor(if only { name } else { &stored }, name)
        };
        Golden {
            name: name.to_owned(),
            flags: serde_json::from_str(&header["flags"]).unwrap(),
            inputs: names("inputs").iter().map(|n| tensor(n, n)).collect(),
            outputs: names("outputs").iter().map(f64_of).collect(),
            cotangents: names("cotangents")
                .into_iter()
                .map(|n| {
                    let d = match n.as_str() {
                        "out" => "dout".to_owned(),
                        _ => format!("dout_{n}"),
                    };
                    (n, tensor(&d, &d).1)
                })
                .collect(),
            gradients: names("gradients")
                .iter()
                .map(|d| (d.trim_start_matches("d_").to_owned(), f64_of(d).1))
                .collect(),
            tols: header
                .get("tols")
                .map(|tols| serde_json::from_str(tols).unwrap())
                .unwrap_or_default(),
        }
    }
    /// Replaces the inputs by others, each computed from the old ones.
    pub fn input(&mut self, name: &str, tensor: Tensor) {
        self.inputs.insert(name.to_owned(), tensor);
    }
    pub fn take(&mut self, name: &str) -> Tensor {
        let found = self.inputs.remove(name);
        found.unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }
    /// Whether a flag is true, or a word.
    fn flag(&self, name: &str) -> bool {
        let value = &self.flags[name];
        value.as_bool().unwrap_or(value.is_string())
    }
}

/// How files map to a model of the catalogue.
pub struct Row {
    /// Names of files, without `.safetensors`.
    pub files: &'static [&'static str],
    /// The model.
    pub model: &'static str,
    /// The file's names of inputs, flags, outputs and (initial or last) states, where they are not the model's in
    /// upper or lower case.
    pub names: &'static [(&'static str, &'static str)],
    /// The file's names of axes, where they are not the model's in lower case.
    pub axes: &'static [(&'static str, &'static str)],
    /// Outputs of the file that another row or test compares.
    pub elsewhere: &'static [&'static str],
    /// What is done to the file's tensors first.
    pub prepare: fn(&mut Golden),
    /// What is done to the computed outputs before they are compared.
    pub finish: fn(&Golden, &mut Outputs),
    /// The transpose of `finish`: the cotangents of what the file has become those of the computed outputs.
    pub unfinish: fn(&Golden, &mut Outputs),
    /// Gradients of the file by what comes before the recurrence.
    pub before: &'static [&'static str],
}

/// A row that maps nothing.
pub const ROW: Row = Row {
    files: &[],
    model: "",
    names: &[],
    axes: &[("t", "L")],
    elsewhere: &[],
    prepare: |_| {},
    finish: |_, _| {},
    unfinish: |_, _| {},
    before: &[],
};

/// A call of a model and what it must give.
pub struct Case {
    pub golden: Golden,
    pub recurrence: Recurrence,
    pub inputs: Inputs,
}

impl Row {
    fn renamed(&self, name: &str) -> String {
        let found = self.names.iter().find(|(from, _)| *from == name);
        found.map_or_else(|| name.to_lowercase(), |(_, to)| (*to).to_owned())
    }

    /// The call for one of its files. Every input of the file must be one of the model.
    pub fn case(&self, file: &str) -> Case {
        self.case_of(Golden::read(file))
    }

    /// The call for a file that is read already.
    pub fn case_of(&self, mut golden: Golden) -> Case {
        let file = golden.name.clone();
        (self.prepare)(&mut golden);
        let model: &Model = selscan_models::model(self.model).unwrap();
        let r = model.recurrence().unwrap();
        let mut inputs = Inputs::new();
        for (name, tensor) in &golden.inputs {
            let name = self.renamed(name);
            if name == "seq_idx" {
                inputs = inputs.with_seq_idx(tensor.array.clone());
            } else if let Some(id) = r.input_named(&name) {
                inputs = inputs.with(&name, tensor.over(&r, &r.input(id).axes, self.axes));
            } else if let Some(id) = r.state_named(&name) {
                inputs = inputs.with_initial(&name, tensor.over(&r, &r.state(id).axes, self.axes));
            } else {
                panic!("{file}: {} has no {name}", self.model);
            }
        }
        let flags = golden.flags.as_object().unwrap().keys();
        for (flag, name) in flags.map(|f| (f, self.renamed(f))) {
            let decl = r.inputs.iter().find(|i| i.name == name);
            if golden.flag(flag) && decl.is_some_and(|d| d.kind == InputKind::Flag) {
                inputs = inputs.with_flag(&name);
            }
        }
        Case {
            golden,
            recurrence: r,
            inputs,
        }
    }

    /// The largest error of `outputs` over all outputs and last states of the file, relative to the largest
    /// value of each. Every output of the file must be there.
    pub fn error(&self, case: &Case, mut outputs: Outputs) -> f64 {
        (self.finish)(&case.golden, &mut outputs);
        let r = &case.recurrence;
        let mut worst = 0.0f64;
        for (name, tensor) in &case.golden.outputs {
            if self.elsewhere.contains(&name.as_str()) {
                continue;
            }
            let name = self.renamed(name);
            let output = r.outputs.iter().find(|o| o.name == name);
            let (axes, actual) = match (output, r.state_named(&name)) {
                (Some(output), _) => (&output.axes, &outputs.tensors[&name]),
                (None, Some(state)) => (&r.state(state).axes, &outputs.last[&name]),
                (None, None) => panic!("{}: {} has no {name}", case.golden.name, self.model),
            };
            worst = worst.max(error(actual, &tensor.over(r, axes, self.axes)));
        }
        worst
    }
}

/// max |x − y| / max |y|; infinite where the shapes differ or anything is NaN.
pub fn error(x: &Array, y: &Array) -> f64 {
    if x.shape != y.shape || x.complex != y.complex {
        return f64::INFINITY;
    }
    let gap = x.data.iter().zip(&y.data).map(|(x, y)| (x - y).abs());
    let worst = gap.fold(
        0.0,
        |a: f64, b| if b.is_nan() { f64::INFINITY } else { a.max(b) },
    );
    if worst == 0.0 {
        0.0
    } else {
        worst / y.max_abs()
    }
}
