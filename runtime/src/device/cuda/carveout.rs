//! How a multiprocessor divides its memory between shared memory and the L1 cache while a kernel runs.
//!
//! In: what a kernel's block takes, how many blocks there are. Out: the part for shared memory, in percent of the most that there is.
//! Left alone, the driver makes room for as many blocks as would fit, however few there are: s5_zoh, one block with 71 KB, got 228 KB, and
//! the 32 KB that it reads in each step found no place in the 28 KB of cache (2.16 ms in place of 1.5).

use selscan_codegen::target::Gpu;

/// What the driver takes of each block's shared memory, bytes.
const RESERVED: u64 = 1 << 10;
/// Registers are given to warps by so many a thread.
const REGISTERS_AT_ONCE: u32 = 8;

/// What a block takes of a multiprocessor.
pub(super) struct Block {
    pub threads: u32,
    /// Registers of a thread; 0: not known.
    pub registers: u32,
    /// Shared memory, bytes.
    pub shared: u32,
}

impl Block {
    /// The part for shared memory that lets as many of `blocks` blocks lie on a multiprocessor as come to it and fit by threads and
    /// registers. `most`: bytes of shared memory that a multiprocessor may have.
    pub(super) fn carveout(&self, blocks: u32, gpu: &Gpu, most: u64) -> i32 {
        let threads = self.threads.max(1);
        let registers = self.registers.next_multiple_of(REGISTERS_AT_ONCE) * threads;
        let here = blocks
            .div_ceil(gpu.multiprocessors.max(1))
            .min(gpu.threads / threads)
            .min(gpu.registers.checked_div(registers).unwrap_or(u32::MAX))
            .max(1);
        let wanted = u64::from(here) * (u64::from(self.shared) + RESERVED);
        (100 * wanted).div_ceil(most.max(1)).min(100) as i32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use selscan_codegen::Target;

    #[test]
    fn there_is_room_for_the_blocks_that_come_and_no_more() {
        let gpu = Target::h200().gpu.unwrap();
        let most = 228 << 10;
        let block = |threads, registers, shared_kib: u32| Block {
            threads,
            registers,
            shared: shared_kib << 10,
        };
        // One block of 71 KB and the driver's one: 72 of 228 KB.
        assert_eq!(block(512, 40, 71).carveout(1, &gpu, most), 32);
        assert_eq!(block(512, 40, 71).carveout(132, &gpu, most), 32);
        assert_eq!(block(512, 40, 71).carveout(133, &gpu, most), 64);
        // However many there are, registers, threads and what there is of it are the limit.
        assert_eq!(block(512, 128, 71).carveout(10_000, &gpu, most), 32);
        assert_eq!(block(1024, 0, 50).carveout(10_000, &gpu, most), 45);
        assert_eq!(block(64, 0, 71).carveout(10_000, &gpu, most), 100);
        assert_eq!(block(128, 32, 0).carveout(1, &gpu, most), 1);
        assert_eq!(block(0, 0, 0).carveout(0, &gpu, 0), 100);
    }
}
