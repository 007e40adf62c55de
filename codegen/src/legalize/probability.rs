//! The error function.

use super::code::Code;
use crate::loop_ir::Reg;

pub(super) fn erf(_code: &mut Code, x: Reg) -> Reg {
    x
}
