//! The memory of an interpreted program.

use std::collections::BTreeMap;

use super::{InterpError, expr};
use crate::dtype::Dtype;
use crate::loop_ir::{Program, Role};

/// Buffers by role, as little-endian bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory(BTreeMap<Role, Vec<u8>>);

impl Memory {
    /// Memory without buffers.
    #[must_use]
    pub fn new() -> Memory {
        Memory::default()
    }
    /// Sets a buffer to numbers, rounded to `dtype` (nearest, ties to even).
    pub fn set(&mut self, role: Role, dtype: Dtype, values: &[f64]) {
        let mut bytes = Vec::with_capacity(values.len() * dtype.bytes());
        for value in values {
            let (buffer, len) = encode(dtype, *value);
            bytes.extend_from_slice(&buffer[..len]);
        }
        self.0.insert(role, bytes);
    }
    /// A buffer's numbers, read as `dtype`; `None` if there is no such buffer.
    #[must_use]
    pub fn get(&self, role: Role, dtype: Dtype) -> Option<Vec<f64>> {
        let bytes = self.0.get(&role)?;
        Some(
            bytes
                .chunks_exact(dtype.bytes())
                .map(|b| decode(dtype, b))
                .collect(),
        )
    }
    /// Sets a buffer's bytes.
    pub fn put(&mut self, role: Role, bytes: Vec<u8>) {
        self.0.insert(role, bytes);
    }
    /// Removes a buffer: its bytes.
    pub fn take(&mut self, role: Role) -> Option<Vec<u8>> {
        self.0.remove(&role)
    }
}

/// The bytes of a number and how many there are.
fn encode(dtype: Dtype, value: f64) -> ([u8; 8], usize) {
    let mut bytes = [0; 8];
    match dtype {
        Dtype::F64 => bytes = value.to_le_bytes(),
        Dtype::F32 => bytes[..4].copy_from_slice(&(value as f32).to_le_bytes()),
        Dtype::Bf16 | Dtype::F16 => {
            bytes[..2].copy_from_slice(&half_bits(dtype, value).to_le_bytes());
        }
    }
    (bytes, dtype.bytes())
}

/// An f64 as 16 bits, rounded once: through the f32 that is rounded to odd.
fn half_bits(dtype: Dtype, value: f64) -> u16 {
    let near = value as f32;
    let mut odd = near;
    if f64::from(near) != value && !value.is_nan() {
        let beyond = f64::from(near).abs() > value.abs();
        odd = f32::from_bits((near.to_bits() - u32::from(beyond)) | 1);
    }
    match dtype {
        Dtype::F16 => half::f16::from_f32(odd).to_bits(),
        _ => half::bf16::from_f32(odd).to_bits(),
    }
}

/// A number from its bytes.
fn decode(dtype: Dtype, bytes: &[u8]) -> f64 {
    let mut word = [0; 8];
    word[..dtype.bytes()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(word);
    match dtype {
        Dtype::F64 => f64::from_bits(bits),
        Dtype::F32 => f64::from(f32::from_bits(bits as u32)),
        Dtype::Bf16 => half::bf16::from_bits(bits as u16).to_f64(),
        Dtype::F16 => half::f16::from_bits(bits as u16).to_f64(),
    }
}

/// Element `at` of a buffer as a number.
pub(super) fn read(bytes: &[u8], dtype: Dtype, at: usize) -> f64 {
    let n = dtype.bytes();
    decode(dtype, &bytes[at * n..(at + 1) * n])
}

/// Sets element `at` of a buffer to a number.
pub(super) fn write(bytes: &mut [u8], dtype: Dtype, at: usize, value: f64) {
    let (data, n) = encode(dtype, value);
    bytes[at * n..(at + 1) * n].copy_from_slice(&data[..n]);
}

/// The memory that the procs of one program share.
pub(super) struct Workspaces(Vec<Option<Vec<u8>>>);

impl Workspaces {
    pub(super) fn new(program: &Program, extents: &[i64]) -> Result<Workspaces, InterpError> {
        let Some(proc) = program.procs.first() else {
            return Ok(Workspaces(Vec::new()));
        };
        let compile = expr::Compiler { proc, extents };
        let each = program.workspaces.iter().map(|(dtype, len)| {
            let len = compile.len(len, "a workspace")?;
            Ok(Some(vec![u8::MAX; len * dtype.bytes()]))
        });
        Ok(Workspaces(each.collect::<Result<_, InterpError>>()?))
    }
    pub(super) fn take(&mut self, number: u32) -> Option<Vec<u8>> {
        self.0.get_mut(number as usize)?.take()
    }
    pub(super) fn put(&mut self, number: u32, data: Vec<u8>) {
        if let Some(slot) = self.0.get_mut(number as usize) {
            *slot = Some(data);
        }
    }
}
