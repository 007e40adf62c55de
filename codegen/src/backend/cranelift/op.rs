//! Operations on registers.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};
use selscan_dsl::Op;

use super::Emitter;
use super::value::{Val, parts, scalar_type};
use crate::backend::EmitError;
use crate::dtype::Ty;
use crate::loop_ir::{LoopOp, Reg};

impl Emitter<'_> {
    /// `reg = op(args)`: on scalars where every operand is one, else vector by vector.
    pub(super) fn op(&mut self, reg: Reg, op: LoopOp, args: &[Reg]) -> Result<Val, EmitError> {
        let vals: Vec<Val> = args.iter().map(|a| self.read(*a)).collect();
        let scalars: Option<Vec<Value>> = vals
            .iter()
            .map(|v| match v {
                Val::Scalar(value) => Some(*value),
                Val::Vector(_) => None,
            })
            .collect();
        if let Some(scalars) = scalars {
            let to = scalar_type(self.proc.ty(reg));
            return Ok(Val::Scalar(self.apply(op, &scalars, to)?));
        }
        let width = self.lane.as_ref().map_or(0, |l| l.width);
        let to = self.vector_of(reg);
        let mut columns = Vec::new();
        for (val, arg) in vals.into_iter().zip(args) {
            let ty = self.vector_of(*arg);
            let values = self.spread(val, ty, width);
            let is_condition = self.proc.ty(*arg) == Ty::Bool;
            columns.push(if is_condition {
                self.mask_as(values, to, width)
            } else {
                values
            });
        }
        // A comparison's mask has the width of what is compared; its register may have that of another comparison.
        let compares = self.proc.ty(reg) == Ty::Bool && self.proc.ty(args[0]) != Ty::Bool;
        let found = if compares {
            self.vector_of(args[0]).as_int()
        } else {
            to
        };
        let count = parts(found, width);
        match op {
            LoopOp::Convert | LoopOp::FromInt => {
                let from = columns.swap_remove(0);
                Ok(Val::Vector(self.convert(&from, to, count)))
            }
            _ => {
                let each = (0..count).map(|i| {
                    let part: Vec<Value> = columns.iter().map(|c| c[i]).collect();
                    self.apply(op, &part, found)
                });
                let values = each.collect::<Result<_, _>>()?;
                Ok(Val::Vector(if compares {
                    self.mask_as(values, to, width)
                } else {
                    values
                }))
            }
        }
    }

    /// One operation on scalars or on vectors of one part.
    fn apply(&mut self, op: LoopOp, x: &[Value], to: Type) -> Result<Value, EmitError> {
        let vector = to.is_vector();
        let value = match op {
            LoopOp::Math(math) => return self.math(math, x, to),
            LoopOp::Fma => self.b.ins().fma(x[0], x[1], x[2]),
            LoopOp::Copy => x[0],
            LoopOp::Bitcast => self.cast(x[0], to),
            LoopOp::Convert if to == types::F32 => self.b.ins().fdemote(to, x[0]),
            LoopOp::Convert if !vector => self.b.ins().fpromote(to, x[0]),
            LoopOp::FromInt if !vector => self.b.ins().fcvt_from_sint(to, x[0]),
            LoopOp::IAdd => self.b.ins().iadd(x[0], x[1]),
            LoopOp::ISub => self.b.ins().isub(x[0], x[1]),
            LoopOp::And => self.b.ins().band(x[0], x[1]),
            LoopOp::Or => self.b.ins().bor(x[0], x[1]),
            LoopOp::Shl(k) => self.b.ins().ishl_imm_u(x[0], i64::from(k)),
            LoopOp::Shr(k) => self.b.ins().ushr_imm_u(x[0], i64::from(k)),
            LoopOp::Sar(k) => self.b.ins().sshr_imm_u(x[0], i64::from(k)),
            LoopOp::ILt => self.b.ins().icmp(IntCC::SignedLessThan, x[0], x[1]),
            LoopOp::Round
            | LoopOp::Convert
            | LoopOp::FromInt
            | LoopOp::Recip
            | LoopOp::ShuffleUp(_)
            | LoopOp::ShuffleXor(_)
            | LoopOp::Broadcast(_)
            | LoopOp::FmaUp(_)
            | LoopOp::MulUp(_) => {
                return self.unsupported(op.name());
            }
        };
        Ok(value)
    }

    fn math(&mut self, op: Op, x: &[Value], to: Type) -> Result<Value, EmitError> {
        let value = match op {
            Op::Neg => self.b.ins().fneg(x[0]),
            Op::Add => self.b.ins().fadd(x[0], x[1]),
            Op::Sub => self.b.ins().fsub(x[0], x[1]),
            Op::Mul => self.b.ins().fmul(x[0], x[1]),
            Op::Div => self.b.ins().fdiv(x[0], x[1]),
            Op::Abs => self.b.ins().fabs(x[0]),
            Op::Floor => self.b.ins().floor(x[0]),
            Op::Sqrt => self.b.ins().sqrt(x[0]),
            Op::Lt => self.b.ins().fcmp(FloatCC::LessThan, x[0], x[1]),
            Op::Le => self.b.ins().fcmp(FloatCC::LessThanOrEqual, x[0], x[1]),
            Op::Gt => self.b.ins().fcmp(FloatCC::LessThan, x[1], x[0]),
            Op::Ge => self.b.ins().fcmp(FloatCC::LessThanOrEqual, x[1], x[0]),
            Op::Eq => self.b.ins().fcmp(FloatCC::Equal, x[0], x[1]),
            Op::Ne => self.b.ins().fcmp(FloatCC::NotEqual, x[0], x[1]),
            Op::Select if to.is_vector() => {
                let mask = self.cast(x[0], to);
                self.b.ins().bitselect(mask, x[1], x[2])
            }
            Op::Select => self.b.ins().select(x[0], x[1], x[2]),
            Op::Min
            | Op::Max
            | Op::Rsqrt
            | Op::Exp
            | Op::Exp2
            | Op::Expm1
            | Op::Phi1
            | Op::Log
            | Op::Log2
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Sigmoid
            | Op::Softplus
            | Op::Erf
            | Op::Re
            | Op::Im
            | Op::Conj
            | Op::Complex => return self.unsupported(op.name()),
        };
        Ok(value)
    }

    /// Lane masks of the width of `to`'s lanes.
    fn mask_as(&mut self, masks: Vec<Value>, to: Type, width: u32) -> Vec<Value> {
        let from = self.b.func.dfg.value_type(masks[0]);
        let target = to.as_int();
        match (from.lane_bits(), target.lane_bits()) {
            (32, 64) => (0..parts(target, width))
                .map(|i| match i % 2 {
                    0 => self.b.ins().swiden_low(masks[i / 2]),
                    _ => self.b.ins().swiden_high(masks[i / 2]),
                })
                .collect(),
            (64, 32) => masks
                .chunks(2)
                .map(|pair| self.even_words(pair[0], pair[pair.len() - 1]))
                .collect(),
            _ => masks,
        }
    }

    /// The lower half of each lane of two I64X2.
    fn even_words(&mut self, a: Value, b: Value) -> Value {
        let (a, b) = (self.cast(a, types::I8X16), self.cast(b, types::I8X16));
        let bytes: Vec<u8> = [0u8, 8, 16, 24].iter().flat_map(|&w| w..w + 4).collect();
        let mask = self.b.func.dfg.immediates.push(bytes.into());
        let words = self.b.ins().shuffle(a, b, mask);
        self.cast(words, types::I32X4)
    }

    /// The same numbers in another type, vector by vector: f32 and f64, and integers to floats.
    fn convert(&mut self, from: &[Value], to: Type, count: usize) -> Vec<Value> {
        let source = self.b.func.dfg.value_type(from[0]);
        (0..count)
            .map(|i| match (source, to) {
                (types::F32X4, types::F64X2) => {
                    let mut low = from[i / 2];
                    if i % 2 == 1 {
                        let words = self.cast(low, types::I64X2);
                        let upper = self.b.ins().extractlane(words, 1);
                        let moved = self.b.ins().scalar_to_vector(types::I64X2, upper);
                        low = self.cast(moved, types::F32X4);
                    }
                    self.b.ins().fvpromote_low(low)
                }
                (types::F64X2, types::F32X4) => {
                    let low = self.b.ins().fvdemote(from[2 * i]);
                    match from.get(2 * i + 1) {
                        Some(&next) => {
                            let high = self.b.ins().fvdemote(next);
                            let (low, high) =
                                (self.cast(low, types::F64X2), self.cast(high, types::F64X2));
                            let upper = self.b.ins().extractlane(high, 0);
                            let both = self.b.ins().insertlane(low, upper, 1);
                            self.cast(both, types::F32X4)
                        }
                        None => low,
                    }
                }
                _ => self.b.ins().fcvt_from_sint(to, from[i]),
            })
            .collect()
    }
}
