//! Storage types of tensors and register types of kernels.

use std::fmt;

/// How an element lies in memory.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize,
)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    /// Every storage type.
    pub const ALL: [Dtype; 4] = [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16];
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }
    /// Its name: `f32`, `f64`, `bf16`, `f16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        }
    }
    /// The dtype of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|d| d.name() == name)
    }
    /// The distance from 1 to the next number.
    #[must_use]
    pub fn epsilon(self) -> f64 {
        match self {
            Dtype::F32 => f64::from(f32::EPSILON),
            Dtype::F64 => f64::EPSILON,
            Dtype::Bf16 => 1.0 / 128.0,
            Dtype::F16 => 1.0 / 1024.0,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type of a register.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ty {
    /// f32 arithmetic.
    F32,
    /// f64 arithmetic.
    F64,
    /// 32 bits: the bits of an f32 or, zero-extended, of a 16-bit element.
    I32,
    /// 64 bits: the bits of an f64.
    I64,
    /// A condition.
    Bool,
}

impl Ty {
    /// Its name in printed loops.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ty::F32 => "f32",
            Ty::F64 => "f64",
            Ty::I32 => "i32",
            Ty::I64 => "i64",
            Ty::Bool => "bool",
        }
    }
    /// Whether it is F32 or F64.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Ty::F32 | Ty::F64)
    }
    /// How a float register lies in memory unchanged; F32 for others.
    #[must_use]
    pub fn storage(self) -> Dtype {
        if self == Ty::F64 {
            Dtype::F64
        } else {
            Dtype::F32
        }
    }
    /// The integer type of the same width.
    #[must_use]
    pub fn bits(self) -> Ty {
        match self {
            Ty::F64 | Ty::I64 => Ty::I64,
            Ty::F32 | Ty::I32 | Ty::Bool => Ty::I32,
        }
    }
}
