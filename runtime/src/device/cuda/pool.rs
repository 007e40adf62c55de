//! The memory that launches on a stream need beside the caller's: workspaces, values that one stage carries to the next,
//! where sequences start.
//!
//! In: bytes. Out: addresses for the launch that holds the [`Room`]. The next launch uses the same memory again: its work
//! comes later on the stream. The pool only grows, so that a launch like an earlier one allocates nothing and graphs
//! that were captured find their memory; it is freed with the last clone of the [`Cuda`].

use std::sync::MutexGuard;

use super::memory::DeviceMemory;
use super::{Cuda, WARM};
use crate::error::Error;

/// Where pieces start.
const ALIGN: usize = 256;
/// The least that is taken from the driver at once.
const LEAST: usize = 1 << 20;

/// The blocks of a stream.
#[derive(Default)]
pub(crate) struct Pool {
    blocks: Vec<DeviceMemory>,
}

/// A place in a pool: the block, the offset in it.
pub(super) type Mark = (usize, usize);

/// The pool during one launch. Nobody else launches on the stream meanwhile.
pub(crate) struct Room<'c> {
    pub(in crate::device) cuda: &'c Cuda,
    pool: MutexGuard<'c, Pool>,
    at: Mark,
}

impl Cuda {
    /// The stream's memory, for one launch.
    pub(crate) fn room(&self) -> Room<'_> {
        Room {
            cuda: self,
            pool: self.pool(),
            at: (0, 0),
        }
    }
}

impl Room<'_> {
    /// Where the next piece may start.
    pub(super) fn mark(&self) -> Mark {
        self.at
    }
    /// Pieces taken since the mark are no longer needed by what is queued from here on.
    pub(super) fn release(&mut self, mark: Mark) {
        self.at = mark;
    }

    /// `bytes` bytes, whatever they hold, aligned to 256.
    pub(in crate::device) fn take(&mut self, bytes: usize) -> Result<u64, Error> {
        let too_large = || Error::TooLarge {
            what: "a launch's memory beside its arguments".to_owned(),
        };
        let bytes = bytes
            .checked_next_multiple_of(ALIGN)
            .ok_or_else(too_large)?;
        loop {
            let (block, offset) = self.at;
            match self.pool.blocks.get(block) {
                Some(memory) if bytes <= memory.bytes() - offset => {
                    self.at.1 += bytes;
                    return Ok(memory.ptr() + offset as u64);
                }
                Some(_) => self.at = (block + 1, 0),
                None => self.grow(bytes)?,
            }
        }
    }

    /// One more block, of at least `bytes`.
    fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        self.cuda.not_while_capturing(
            &format!("{bytes} more bytes of the stream's memory were needed"),
            WARM,
        )?;
        // Powers of two: a series of growing launches takes at most four times what the largest needs.
        let round = bytes
            .max(LEAST)
            .checked_next_power_of_two()
            .unwrap_or(bytes);
        let new = |bytes| DeviceMemory::new(&self.cuda.gpu, bytes);
        let block = new(round).or_else(|_| new(bytes))?;
        self.pool.blocks.push(block);
        Ok(())
    }
}
