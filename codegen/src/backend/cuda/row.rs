//! Neighbouring elements as words: how a row is declared, taken apart and put together.
//!
//! In: an element type and a count. Out: the C type of 4, 8 or 16 bytes, and the expressions of its elements.

use crate::dtype::Dtype;

/// A row under a name.
pub(super) struct RowText {
    dtype: Dtype,
    /// Its C type.
    pub ty: &'static str,
    /// Its name.
    pub name: String,
    words: usize,
}

impl RowText {
    /// A row of `count` elements, the one of that number.
    pub fn new(dtype: Dtype, count: usize, number: u32) -> RowText {
        RowText::named(dtype, count, format!("w{number}"))
    }

    /// A row that is fetched for later.
    pub fn fetched(dtype: Dtype, count: usize, number: u32) -> RowText {
        RowText::named(dtype, count, format!("f{number}"))
    }

    fn named(dtype: Dtype, count: usize, name: String) -> RowText {
        let half = count.div_ceil(2);
        let (ty, words) = match (dtype, count) {
            (Dtype::F64, 1) => ("double1", 1),
            (Dtype::F32, 1) => ("float1", 1),
            (Dtype::Bf16 | Dtype::F16, 1) => ("ushort1", 1),
            (Dtype::F64, _) => ("double2", 2),
            (Dtype::F32, 2) => ("float2", 2),
            (Dtype::F32, _) => ("float4", 4),
            (Dtype::Bf16 | Dtype::F16, 2) => ("uint1", half),
            (Dtype::Bf16 | Dtype::F16, 4) => ("uint2", half),
            (Dtype::Bf16 | Dtype::F16, _) => ("uint4", half),
        };
        RowText {
            dtype,
            ty,
            name,
            words,
        }
    }

    fn word(&self, k: usize) -> String {
        format!("{}.{}", self.name, ["x", "y", "z", "w"][k % 4])
    }

    /// Element `k` as a number.
    pub fn get(&self, k: usize) -> String {
        let half = |low: &str, high: &str| {
            let name = if k.is_multiple_of(2) { low } else { high };
            format!("{name}({})", self.word(k / 2))
        };
        match self.dtype {
            Dtype::F32 | Dtype::F64 => self.word(k),
            Dtype::Bf16 => half("low", "high"),
            Dtype::F16 => half("low_f16", "high_f16"),
        }
    }

    /// The assignments of all elements.
    pub fn set(&self, values: &[String]) -> Vec<String> {
        let pair = |k: usize, f: &str| {
            format!(
                "{} = {f}({}, {});",
                self.word(k),
                values[2 * k],
                values[2 * k + 1]
            )
        };
        let each = 0..self.words;
        match self.dtype {
            Dtype::F32 | Dtype::F64 => each
                .map(|k| format!("{} = {};", self.word(k), values[k]))
                .collect(),
            Dtype::Bf16 => each.map(|k| pair(k, "both")).collect(),
            Dtype::F16 => each.map(|k| pair(k, "both_f16")).collect(),
        }
    }
}
