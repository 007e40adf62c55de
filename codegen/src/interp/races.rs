//! What the lanes of an item do with memory that they have in common ([`Role::Exchange`]) between their meetings.
//!
//! In: accesses, meetings. Out: whether an access is ordered with those of other lanes: none of them wrote the element since the
//! lanes last met, and where it is written none of them read it.

use std::collections::VecDeque;

use crate::loop_ir::{BufferDecl, Proc, Role};

/// A point in the order that meetings make: an access is later than those of moments before the last that is settled.
type Moment = u64;

/// The last access of a kind to an element: when and by which lane.
#[derive(Clone, Copy)]
struct Access {
    when: Moment,
    lane: u32,
}

/// Several lanes read an element.
const MANY: u32 = u32::MAX;

/// Who touched what since the lanes last met.
pub(super) struct Races {
    /// By buffer, where lanes have it in common: the last write and read of each element.
    elements: Vec<Vec<(Access, Access)>>,
    now: Moment,
    /// Accesses from here on are not ordered with those of other lanes.
    settled: Moment,
    /// Moments of arrivals that no wait has come to.
    arrived: VecDeque<Moment>,
}

impl Races {
    pub fn new(proc: &Proc, lens: &[usize]) -> Races {
        let never = Access { when: 0, lane: 0 };
        let of = |(decl, &len): (&BufferDecl, &usize)| match decl.role {
            Role::Exchange => vec![(never, never); len],
            _ => Vec::new(),
        };
        Races {
            elements: proc.buffers.iter().zip(lens).map(of).collect(),
            now: 1,
            settled: 1,
            arrived: VecDeque::new(),
        }
    }

    /// All lanes come together.
    pub fn meet(&mut self) {
        self.now += 1;
        self.settled = self.now;
    }

    /// What lanes did before is there after the wait that comes to this.
    pub fn arrive(&mut self) {
        self.now += 1;
        self.arrived.push_back(self.now);
    }

    /// Comes to the first arrival that no wait came to before.
    pub fn wait(&mut self) {
        if let Some(moment) = self.arrived.pop_front() {
            self.settled = self.settled.max(moment);
        }
    }

    /// Notes a read; whether it is ordered with other lanes' writes.
    pub fn read(&mut self, buf: usize, at: usize, lane: usize) -> bool {
        let (now, settled) = (self.now, self.settled);
        let Some((write, read)) = self.elements[buf].get_mut(at) else {
            return true;
        };
        let lane = lane as u32;
        let others = read.when >= settled && read.lane != lane;
        *read = Access {
            when: now,
            lane: if others { MANY } else { lane },
        };
        write.when < settled || write.lane == lane
    }

    /// Notes a write; whether it is ordered with other lanes' reads and writes.
    pub fn write(&mut self, buf: usize, at: usize, lane: usize) -> bool {
        let (now, settled) = (self.now, self.settled);
        let Some((write, read)) = self.elements[buf].get_mut(at) else {
            return true;
        };
        let lane = lane as u32;
        let ordered = |a: &Access| a.when < settled || a.lane == lane;
        let fits = ordered(write) && ordered(read);
        *write = Access { when: now, lane };
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::loop_ir::Ix;
    use crate::sample::empty;

    fn ours() -> Races {
        let mut proc = empty(Ix::Const(1));
        proc.buffers.push(BufferDecl {
            name: "ours".into(),
            role: Role::Exchange,
            dtype: Dtype::F32,
            len: Ix::Const(2),
        });
        Races::new(&proc, &[2])
    }

    #[test]
    fn a_barrier_in_two_parts_orders_what_is_before_the_one_with_what_is_after_the_other() {
        let mut races = ours();
        assert!(races.write(0, 0, 3));
        races.arrive();
        // Its own it may read at once; another's, when it has waited.
        assert!(races.read(0, 0, 3));
        assert!(!races.read(0, 0, 2));
        assert!(races.write(0, 1, 3));
        races.wait();
        assert!(races.read(0, 0, 1));
        // Written after the arrival.
        assert!(!races.read(0, 1, 1));
        races.meet();
        assert!(races.read(0, 1, 1));
    }

    #[test]
    fn what_several_read_none_may_write() {
        let mut races = ours();
        assert!(races.read(0, 0, 1));
        assert!(races.write(0, 0, 1));
        races.meet();
        assert!(races.read(0, 0, 1) && races.read(0, 0, 2));
        assert!(!races.write(0, 0, 1));
        races.meet();
        assert!(races.write(0, 0, 1));
        assert!(!races.write(0, 0, 2));
    }
}
