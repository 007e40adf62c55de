//! What NVRTC's optimiser hands to the assembler, read for one mistake: addresses that nothing computes.
//!
//! In: PTX. Out: a register that is read and never written. NVRTC's optimiser has lost computations of addresses (see
//! `address` in the text that [`selscan_codegen::backend::cuda`] begins with); the assembler says nothing of it, and the kernel
//! reads or writes wherever the register happens to point.

use rustc_hash::FxHashSet;

/// How the 64-bit registers are called, which hold addresses and what they are computed from.
const WIDE: &str = "%rd";

/// A 64-bit register that a function reads and does not write anywhere; the first of them.
pub(super) fn unwritten(ptx: &str) -> Option<&str> {
    let (mut read, mut written) = (Vec::new(), FxHashSet::default());
    for line in ptx.lines() {
        // Registers are a function's own.
        if line.contains(".entry ") || line.contains(".func ") {
            if let Some(found) = first(&read, &written) {
                return Some(found);
            }
            read.clear();
            written.clear();
        }
        let line = line.split("//").next().unwrap_or_default().trim();
        // Blocks of hand-written assembly declare registers of their own; so do declarations.
        if line.starts_with(['{', '.']) {
            continue;
        }
        let after_word = |text| {
            str::split_once(text, char::is_whitespace)
                .unwrap_or_default()
                .1
        };
        let instruction = match line.strip_prefix('@') {
            Some(guarded) => after_word(guarded).trim_start(),
            None => line,
        };
        let operands = after_word(instruction).trim_start();
        // What an instruction writes comes first, one register or several in braces; an address, in brackets, is read.
        let end = if operands.starts_with('{') { '}' } else { ',' };
        let (first, others) = operands.split_once(end).unwrap_or((operands, ""));
        if first.starts_with(WIDE) || end == '}' {
            written.extend(registers(first));
        } else {
            read.extend(registers(first));
        }
        read.extend(registers(others));
    }
    first(&read, &written)
}

fn first<'p>(read: &[&'p str], written: &FxHashSet<&'p str>) -> Option<&'p str> {
    read.iter().find(|r| !written.contains(*r)).copied()
}

/// The 64-bit registers in a text.
fn registers(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(WIDE).filter_map(|(at, _)| {
        let digits = text[at + WIDE.len()..].bytes();
        let count = digits.take_while(u8::is_ascii_digit).count();
        (count > 0).then(|| &text[at..at + WIDE.len() + count])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
.visible .entry first(
	.param .u64 first_param_0
)
{
	.reg .pred 	%p<3>;
	.reg .b64 	%rd<9>;
	ld.param.u64 	%rd1, [first_param_0];
	cvta.to.global.u64 	%rd2, %rd1;
	mul.wide.s32 	%rd3, %r1, 4;
	@%p1 bra 	$L__BB0_2;
	add.s64 	%rd4, %rd2, %rd3;
	// begin inline asm
	prefetch.global.L2 [%rd4];
	// end inline asm
	@!%p2 mov.u64 	%rd5, 0;
	setp.lt.s64 	%p1, %rd5, %rd3;
	ld.global.v2.u32 	{%r1, %r2}, [%rd4+8];
	ld.global.v2.u64 	{%rd6, %rd7}, [%rd4+16];
	add.s64 	%rd8, %rd6, %rd7;
	{ .reg .b64 to; mbarrier.arrive.shared.b64 to, [%r3]; }
	st.global.f32 	[%rd4], %f1;
	ret;
}
";

    #[test]
    fn a_function_that_writes_what_it_reads_is_right() {
        assert_eq!(unwritten(GOOD), None);
        assert_eq!(unwritten(""), None);
    }

    #[test]
    fn an_address_that_nothing_computes_is_found() {
        for lost in ["add.s64 	%rd4, %rd2, %rd3;", "mul.wide.s32 	%rd3, %r1, 4;"] {
            let register = &lost[lost.find("%rd").unwrap_or(0)..][..4];
            let bad = GOOD.replace(lost, "");
            assert_ne!(bad, GOOD);
            assert_eq!(unwritten(&bad), Some(register), "{lost}");
            // In any function; what another one writes does not count.
            assert_eq!(unwritten(&[&bad, GOOD].concat()), Some(register));
            assert_eq!(unwritten(&[GOOD, &bad].concat()), Some(register));
        }
        let changed = [
            ("@!%p2 mov.u64 	%rd5, 0;", "", "%rd5"),
            ("%rd6, %rd7}", "%rd6}", "%rd7"),
        ];
        for (from, to, register) in changed {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD);
            assert_eq!(unwritten(&bad), Some(register));
        }
    }
}
