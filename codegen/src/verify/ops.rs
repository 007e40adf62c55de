//! The types of operations: what each takes and gives. In: an operation, its registers. Out: nothing, or the fault.

use selscan_dsl::Op;

use super::{Fault, Verifier, is_int};
use crate::dtype::Ty;
use crate::loop_ir::{LoopOp, Reg};

impl Verifier<'_> {
    /// Result and operands of an operation.
    pub(super) fn op(
        &self,
        op: LoopOp,
        to: (Reg, Ty),
        args: &[Reg],
        types: &[Ty],
    ) -> Result<(), Fault> {
        let wrong = |reg: Reg, wanted| {
            let found = self.proc.ty(reg).name();
            Err(Fault::Type {
                what: op.name(),
                reg: reg.0,
                found,
                wanted,
            })
        };
        let all = |wanted: Ty| match args.iter().zip(types).find(|(_, t)| **t != wanted) {
            Some((reg, _)) => wrong(*reg, wanted.name()),
            None => Ok(()),
        };
        let result = |wanted: Ty| {
            if to.1 == wanted {
                Ok(())
            } else {
                wrong(to.0, wanted.name())
            }
        };
        let first_float = || {
            if types[0].is_float() {
                Ok(())
            } else {
                wrong(args[0], "f32 or f64")
            }
        };
        let first_int = || {
            if is_int(types[0]) {
                Ok(())
            } else {
                wrong(args[0], "i32 or i64")
            }
        };
        match op {
            LoopOp::Math(m @ (Op::Re | Op::Im | Op::Conj | Op::Complex)) => {
                Err(Fault::ComplexOp(m.name()))
            }
            LoopOp::Math(m) if m.is_comparison() => {
                first_float()?;
                all(types[0])?;
                result(Ty::Bool)
            }
            LoopOp::Math(Op::Select) => {
                if types[0] != Ty::Bool {
                    return wrong(args[0], "bool");
                }
                if types[2] != types[1] {
                    return wrong(args[2], types[1].name());
                }
                result(types[1])
            }
            LoopOp::ShuffleUp(k)
            | LoopOp::ShuffleXor(k)
            | LoopOp::Broadcast(k)
            | LoopOp::FmaUp(k)
            | LoopOp::MulUp(k) => {
                all(types[0])?;
                let Some((_, lanes)) = &self.lane else {
                    return Err(Fault::NoLane(op.name()));
                };
                if u32::from(k) >= lanes.width {
                    return Err(Fault::NoLane(op.name()));
                }
                result(types[0])
            }
            LoopOp::Math(_) | LoopOp::Fma | LoopOp::Round | LoopOp::Recip => {
                first_float()?;
                all(types[0])?;
                result(types[0])
            }
            LoopOp::Copy => result(types[0]),
            LoopOp::Bitcast => match types[0] {
                Ty::F32 => result(Ty::I32),
                Ty::F64 => result(Ty::I64),
                Ty::I32 => result(Ty::F32),
                Ty::I64 => result(Ty::F64),
                Ty::Bool => wrong(args[0], "a number"),
            },
            LoopOp::Convert => match types[0] {
                Ty::F32 => result(Ty::F64),
                Ty::F64 => result(Ty::F32),
                _ => wrong(args[0], "f32 or f64"),
            },
            LoopOp::FromInt => match types[0] {
                Ty::I32 => result(Ty::F32),
                Ty::I64 => result(Ty::F64),
                _ => wrong(args[0], "i32 or i64"),
            },
            LoopOp::IAdd | LoopOp::ISub | LoopOp::And | LoopOp::Or => {
                first_int()?;
                all(types[0])?;
                result(types[0])
            }
            LoopOp::Shl(k) | LoopOp::Shr(k) | LoopOp::Sar(k) => {
                first_int()?;
                let bits = if types[0] == Ty::I64 { 64 } else { 32 };
                if k >= bits {
                    return Err(Fault::Shift {
                        op: op.name(),
                        bits,
                    });
                }
                result(types[0])
            }
            LoopOp::ILt => {
                first_int()?;
                all(types[0])?;
                result(Ty::Bool)
            }
        }
    }
}
