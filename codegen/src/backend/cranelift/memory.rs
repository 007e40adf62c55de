//! Loads and stores: an element, a vector of neighbours, or one element per lane.

use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};

use super::address::Induction;
use super::value::{Val, parts, vector_type};
use super::{Emitter, FIXED};
use crate::backend::EmitError;
use crate::dtype::{Dtype, Ty};
use crate::loop_ir::{Buf, Ix, Reg, Role};

/// How an element lies in memory and in a register.
#[derive(Clone, Copy)]
enum Element {
    /// As it is.
    Whole(Ty),
    /// 16 bits, in the lower half of an I32.
    Half,
}

impl Element {
    fn ty(self) -> Ty {
        match self {
            Element::Whole(ty) => ty,
            Element::Half => Ty::I32,
        }
    }
}

impl Emitter<'_> {
    /// An element as a register of type `ty`.
    pub(super) fn load(&mut self, buf: Buf, ix: &Ix, ty: Ty) -> Result<Val, EmitError> {
        let element = match (self.proc.buffer(buf).dtype, ty) {
            (Dtype::F32, Ty::F32) | (Dtype::F64, Ty::F64) => Element::Whole(ty),
            (Dtype::Bf16 | Dtype::F16, Ty::I32) => Element::Half,
            (dtype, ty) => {
                let what = format!("reading {dtype} as {}", ty.name());
                return self.unsupported(what);
            }
        };
        let Some(lane) = self.lane.clone() else {
            return Ok(Val::Scalar(self.load_one(buf, ix, element)));
        };
        match ix.step_in(lane.var) {
            Some(0) => Ok(Val::Scalar(self.load_one(buf, ix, element))),
            Some(1) => Ok(Val::Vector(self.load_row(buf, ix, element, lane.width))),
            _ => {
                let scalars: Vec<Value> = (0..lane.width)
                    .map(|k| self.at_lane(k, |e| e.load_one(buf, ix, element)))
                    .collect();
                let ty = vector_type(element.ty(), Ty::I32);
                Ok(Val::Vector(self.collect(&scalars, ty)))
            }
        }
    }

    fn load_one(&mut self, buf: Buf, ix: &Ix, element: Element) -> Value {
        let flags = self.read_flags(buf, ix);
        let (at, offset) = self.address(buf, ix);
        match element {
            Element::Whole(Ty::F64) => self.b.ins().load(types::F64, flags, at, offset),
            Element::Whole(_) => self.b.ins().load(types::F32, flags, at, offset),
            Element::Half => self.b.ins().uload16(types::I32, flags, at, offset),
        }
    }

    /// `width` neighbours, in vectors.
    fn load_row(&mut self, buf: Buf, ix: &Ix, element: Element, width: u32) -> Vec<Value> {
        let flags = self.read_flags(buf, ix);
        let (at, offset) = self.address(buf, ix);
        let ty = vector_type(element.ty(), Ty::I32);
        let (lanes, bytes) = (ty.lane_count(), self.proc.buffer(buf).dtype.bytes() as i32);
        (0..parts(ty, width) as u32)
            .map(|part| {
                let offset = offset + (part * lanes) as i32 * bytes;
                let full = width - part * lanes >= lanes;
                match (element, full) {
                    (Element::Whole(own), true) => {
                        // SSE's memory operands must be aligned, and Cranelift folds an unaligned load into cmpps
                        // all the same; it does not look through a cast.
                        let as_bits = vector_type(own.bits(), Ty::I32);
                        let loaded = if self.folds_loads { ty } else { as_bits };
                        let row = self.b.ins().load(loaded, flags, at, offset);
                        self.cast(row, ty)
                    }
                    (Element::Whole(_), false) => {
                        let half = self.b.ins().load(types::F64, flags, at, offset);
                        self.low_half(half, ty)
                    }
                    (Element::Half, true) => self.b.ins().uload16x4(flags, at, offset),
                    (Element::Half, false) => {
                        let two = self.b.ins().load(types::I32, flags, at, offset);
                        let vector = self.b.ins().scalar_to_vector(types::I32X4, two);
                        let vector = self.cast(vector, types::I16X8);
                        self.b.ins().uwiden_low(vector)
                    }
                }
            })
            .collect()
    }

    /// A vector with this scalar in its lower half.
    fn low_half(&mut self, half: Value, ty: Type) -> Value {
        let vector = self.b.ins().scalar_to_vector(types::F64X2, half);
        self.cast(vector, ty)
    }

    /// A register into an element, in every lane.
    pub(super) fn store(&mut self, buf: Buf, ix: &Ix, reg: Reg) -> Result<(), EmitError> {
        let element = match (self.proc.buffer(buf).dtype, self.proc.ty(reg)) {
            (Dtype::F32, Ty::F32) | (Dtype::F64, Ty::F64) => Element::Whole(self.proc.ty(reg)),
            (Dtype::Bf16 | Dtype::F16, Ty::I32) => Element::Half,
            (dtype, ty) => {
                let what = format!("writing {} as {dtype}", ty.name());
                return self.unsupported(what);
            }
        };
        let val = self.read(reg);
        match (self.lane.clone(), val) {
            (None, Val::Scalar(value)) => self.store_one(buf, ix, element, value),
            (Some(lane), val) => match (ix.step_in(lane.var), val) {
                (Some(0), Val::Scalar(value)) => self.store_one(buf, ix, element, value),
                (Some(1), val) => {
                    let values = self.spread(val, vector_type(element.ty(), Ty::I32), lane.width);
                    self.store_row(buf, ix, element, &values, lane.width);
                }
                (_, val) => {
                    let values = self.spread(val, vector_type(element.ty(), Ty::I32), lane.width);
                    for k in 0..lane.width {
                        let value = self.extract(&values, k);
                        self.at_lane(k, |e| e.store_one(buf, ix, element, value));
                    }
                }
            },
            (None, Val::Vector(_)) => {
                return self.unsupported("a value that differs between lanes outside a Lane loop");
            }
        }
        Ok(())
    }

    fn store_one(&mut self, buf: Buf, ix: &Ix, element: Element, value: Value) {
        let (at, offset) = self.address(buf, ix);
        match element {
            Element::Whole(_) => self.b.ins().store(WRITE, value, at, offset),
            Element::Half => self.b.ins().istore16(WRITE, value, at, offset),
        };
    }

    fn store_row(&mut self, buf: Buf, ix: &Ix, element: Element, values: &[Value], width: u32) {
        let (at, offset) = self.address(buf, ix);
        let bytes = self.proc.buffer(buf).dtype.bytes() as i32;
        for (part, &value) in values.iter().enumerate() {
            let lanes = self.b.func.dfg.value_type(value).lane_count();
            let first = part as u32 * lanes;
            let offset = offset + first as i32 * bytes;
            let full = width - first >= lanes;
            match element {
                Element::Whole(_) if full => {
                    self.b.ins().store(WRITE, value, at, offset);
                }
                Element::Whole(_) => {
                    let vector = self.cast(value, types::F64X2);
                    let half = self.b.ins().extractlane(vector, 0);
                    self.b.ins().store(WRITE, half, at, offset);
                }
                Element::Half => {
                    // The lower 16 bits of each lane, side by side.
                    let mask = self.b.ins().iconst(types::I32, 0xffff);
                    let mask = self.b.ins().splat(types::I32X4, mask);
                    let low = self.b.ins().band(value, mask);
                    let narrow = self.b.ins().unarrow(low, low);
                    let whole = if full { types::I64X2 } else { types::I32X4 };
                    let vector = self.cast(narrow, whole);
                    let bits = self.b.ins().extractlane(vector, 0);
                    self.b.ins().store(WRITE, bits, at, offset);
                }
            }
        }
    }

    /// Inputs are never written, so their loads may leave loops, but no if on the way: only the if may have made
    /// sure that the element exists. An index that depends on a loop's variable stays inside that loop.
    fn read_flags(&self, buf: Buf, ix: &Ix) -> MemFlagsData {
        if !matches!(self.proc.buffer(buf).role, Role::Input(_)) {
            return WRITE;
        }
        let depends = |l: &Induction| self.depends(ix, l.var);
        let guarded = (0..self.loops.len())
            .any(|i| self.loops[i].guarded && !self.loops[i..].iter().any(depends));
        if guarded {
            WRITE.with_readonly()
        } else {
            FIXED
        }
    }
}

/// Memory that may change during the call; accesses do not fault.
const WRITE: MemFlagsData = MemFlagsData::new().with_notrap();
