//! How a recurrence may be run: every free choice of one kernel, as a value with a text form.
//!
//! `sequential order=tiled lanes=4 block=2 tile=64 unroll=4`, `chunked chunk=256 order=registers lanes=4 …`.
//! A schedule is a proposal; [`crate::Plan::new`] accepts it or says why not.

use std::fmt;
use std::str::FromStr;

/// How time is run through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// One work item runs all of time: any recurrence.
    Sequential,
    /// Time is cut into chunks that run side by side: summaries, a carry over chunks, a rescan. Affine diagonal
    /// recurrences (Blelloch 1990; the three phases of reduce-then-scan).
    Chunked {
        /// Steps of a chunk (the last one may be shorter).
        chunk: u32,
    },
}

/// How the inner axes (those that are neither time nor parallel) and time are nested.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Order {
    /// Inner axes fully unrolled, states in registers, one loop over time.
    Registers,
    /// Time cut into tiles; in a tile, inner axes outside, time inside, one state point in a register.
    Tiled,
    /// Time outside; at each step one loop nest after another over the inner axes.
    Stepped,
    /// Time cut into runs of `tile` steps, one a lane of a warp, unrolled; the inner axes outside. The runs' ends are
    /// scanned across the lanes: affine diagonal recurrences on a GPU.
    Scanned,
    /// Time cut into tiles of `warp` runs of `tile` steps. What does not vary over the inner axis is computed for one run by
    /// each thread of an item, before and after the states, which the same threads share out by their inner axis: on a GPU.
    Staged,
}

/// Every free choice of one kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Schedule {
    /// How time is run through.
    pub algorithm: Algorithm,
    /// How loops are nested.
    pub order: Order,
    /// Points of the lane axis in one vector (1: scalar code).
    pub lanes: u32,
    /// Vectors of the lane axis in one work item.
    pub block: u32,
    /// Steps of a time tile ([`Order::Tiled`]).
    pub tile: u32,
    /// Points of the innermost inner axis that one turn handles; that are under way at once ([`Order::Scanned`], by several
    /// threads).
    pub unroll: u32,
    /// Threads that run one work item together on a GPU: they share out the steps of a tile ([`Order::Scanned`]) or
    /// the points of the states ([`Order::Registers`]), or both ([`Order::Staged`]). 1 on a CPU.
    pub warp: u32,
    /// Threads of a block on a GPU.
    pub threads: u32,
    /// Turns that a loop over time looks ahead on a GPU: inputs are brought near, and loaded one turn before they are
    /// used. 0: not at all.
    pub ahead: u32,
    /// Whether inputs that the items of a block have in common lie in its shared memory on a GPU, a tile of time at once:
    /// 0 no, 1 as they are, 2 converted to the type of arithmetic, 3 so and one tile read while the next is put down
    /// ([`Order::Scanned`]; the others of 2 do so themselves).
    pub share: u32,
    /// Tiles that are shared at once ([`Order::Scanned`]).
    pub tiles: u32,
    /// Steps of the chunks of time that a gradient runs again: states are saved before each. 0: no gradient is wanted.
    pub save: u32,
    /// Blocks that a multiprocessor of a GPU is to hold at once, which bounds a thread's registers; 0: as many as fit.
    pub resident: u32,
    /// Of every eight powers of two in f32, those that a GPU computes by products and sums beside its exponential unit.
    pub exp2: u32,
}

/// Threads of a block where a schedule does not say.
pub const THREADS: u32 = 128;

impl Order {
    /// Every order, the fastest where legal first; unrolled code is slower than a tile's loops, and far slower to
    /// compile.
    pub const ALL: [Order; 5] = [
        Order::Tiled,
        Order::Registers,
        Order::Stepped,
        Order::Scanned,
        Order::Staged,
    ];

    fn name(self) -> &'static str {
        match self {
            Order::Registers => "registers",
            Order::Tiled => "tiled",
            Order::Stepped => "stepped",
            Order::Scanned => "scanned",
            Order::Staged => "staged",
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Schedule {
    /// All of time by one work item, one point of the lane axis at a time, and nothing more.
    #[must_use]
    pub const fn plain(order: Order) -> Schedule {
        Schedule {
            algorithm: Algorithm::Sequential,
            order,
            lanes: 1,
            block: 1,
            tile: 64,
            unroll: 1,
            warp: 1,
            threads: THREADS,
            ahead: 0,
            share: 0,
            tiles: 1,
            save: 0,
            resident: 0,
            exp2: 0,
        }
    }

    /// Whether the threads of an item are to have several points of the inner axis under way ([`Order::Scanned`]).
    #[must_use]
    pub fn several_under_way(&self) -> bool {
        self.order == Order::Scanned && self.warp > 1 && self.unroll > 1
    }

    /// The schedule for fewer steps: chunks as long as these are chunks of a third of them, the same code but for one
    /// constant.
    #[must_use]
    pub fn shortened(self, steps: usize) -> Schedule {
        match self.algorithm {
            // Several chunks, the last one broken.
            Algorithm::Chunked { chunk } if chunk as usize >= steps => Schedule {
                algorithm: Algorithm::Chunked {
                    chunk: (steps / 3).max(1) as u32,
                },
                ..self
            },
            _ => self,
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.algorithm {
            Algorithm::Sequential => write!(f, "sequential")?,
            Algorithm::Chunked { chunk } => write!(f, "chunked chunk={chunk}")?,
        }
        write!(
            f,
            " order={} lanes={} block={} tile={} unroll={}",
            self.order, self.lanes, self.block, self.tile, self.unroll
        )?;
        if self.warp != 1 {
            write!(f, " warp={}", self.warp)?;
        }
        if self.threads != THREADS {
            write!(f, " threads={}", self.threads)?;
        }
        if self.ahead != 0 {
            write!(f, " ahead={}", self.ahead)?;
        }
        if self.share != 0 {
            write!(f, " share={}", self.share)?;
        }
        if self.tiles != 1 {
            write!(f, " tiles={}", self.tiles)?;
        }
        if self.save != 0 {
            write!(f, " save={}", self.save)?;
        }
        if self.resident != 0 {
            write!(f, " resident={}", self.resident)?;
        }
        if self.exp2 != 0 {
            write!(f, " exp2={}", self.exp2)?;
        }
        Ok(())
    }
}

/// Why a text is no schedule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{text}' is no schedule: {why}; wanted for example 'sequential order=tiled lanes=4 block=2 tile=64 unroll=4'"
)]
pub struct ScheduleError {
    text: String,
    why: String,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let err = |why: String| ScheduleError {
            text: text.to_owned(),
            why,
        };
        let mut words = text.split_whitespace();
        let head = words.next().ok_or_else(|| err("it is empty".into()))?;
        let mut out = Schedule::plain(Order::Stepped);
        let mut chunk = None;
        for word in words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| err(format!("'{word}' is not key=value")))?;
            if key == "order" {
                let order = Order::ALL.into_iter().find(|o| o.name() == value);
                out.order = order.ok_or_else(|| {
                    err(format!(
                        "'{value}' is no order (registers, tiled, stepped, scanned, staged)"
                    ))
                })?;
                continue;
            }
            let number = value.parse::<u32>().ok().filter(|&n| n > 0 && n <= 1 << 30);
            let number =
                number.ok_or_else(|| err(format!("'{value}' is no whole number above 0")))?;
            match key {
                "chunk" => chunk = Some(number),
                "lanes" => out.lanes = number,
                "block" => out.block = number,
                "tile" => out.tile = number,
                "unroll" => out.unroll = number,
                "warp" => out.warp = number,
                "threads" => out.threads = number,
                "ahead" => out.ahead = number,
                "share" => out.share = number,
                "tiles" => out.tiles = number,
                "save" => out.save = number,
                "resident" => out.resident = number,
                "exp2" => out.exp2 = number,
                _ => {
                    return Err(err(format!(
                        "'{key}' is no choice (order, chunk, lanes, block, tile, unroll, warp, threads, ahead, share, tiles, save, resident, exp2)"
                    )));
                }
            }
        }
        out.algorithm = match (head, chunk) {
            ("sequential", None) => Algorithm::Sequential,
            ("sequential", Some(_)) => return Err(err("sequential takes no chunk".into())),
            ("chunked", Some(chunk)) => Algorithm::Chunked { chunk },
            ("chunked", None) => return Err(err("chunked wants chunk=STEPS".into())),
            _ => {
                return Err(err(format!(
                    "'{head}' is no algorithm (sequential, chunked)"
                )));
            }
        };
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_and_back() {
        for text in [
            "sequential order=tiled lanes=4 block=2 tile=64 unroll=4",
            "chunked chunk=256 order=registers lanes=1 block=1 tile=16 unroll=1",
            "sequential order=scanned lanes=1 block=2 tile=16 unroll=1 warp=8 threads=256",
            "sequential order=staged lanes=1 block=1 tile=8 unroll=8 warp=4 share=2 exp2=1",
        ] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_text_says_why() {
        for (text, why) in [
            ("", "it is empty"),
            ("parallel", "'parallel' is no algorithm"),
            ("chunked", "chunked wants chunk=STEPS"),
            ("sequential chunk=3", "sequential takes no chunk"),
            ("sequential lanes=0", "'0' is no whole number above 0"),
            ("sequential lanes", "'lanes' is not key=value"),
            ("sequential width=4", "'width' is no choice"),
            ("sequential order=random", "'random' is no order"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
