//! What a thread of a GPU keeps for itself, within limits.
//!
//! In: a proc, bytes. Out: the proc with its largest scratch buffers as workspaces, until the rest is no more than that.
//! A driver sets a thread's own memory aside for every thread that the GPU can hold: a large state there would take tens of
//! gigabytes whatever is launched. A workspace has the items that there are. Element i of a thread lies at
//! i·threads + thread, so that neighbouring threads access neighbours.

use crate::dtype::Dtype;
use crate::lanes::width;
use crate::loop_ir::{Buf, Ix, LoopKind, Proc, Rhs, Role, Stmt, Var};

/// The proc with at most `most` bytes of scratch memory an item; new workspaces are appended. Before accesses are merged and
/// operations written out: a scratch buffer is loaded and stored element by element.
#[must_use]
pub fn bounded(mut proc: Proc, most: u64, workspaces: &mut Vec<(Dtype, Ix)>) -> Proc {
    let [
        Stmt::For {
            var: item,
            ref body,
            ..
        },
    ] = proc.body[..]
    else {
        return proc;
    };
    let lanes = Ix::Const(i64::from(width(body).unwrap_or(1)));
    let count = proc.items.clone() * lanes.clone();
    let moved = move_largest(&mut proc, Role::Scratch, most, &count, workspaces);
    if moved.iter().any(Option::is_some) {
        let place = |ix: Ix, _, lane: Option<Var>| {
            let thread = Ix::Var(item) * lanes.clone() + lane.map_or(Ix::Const(0), Ix::Var);
            ix * count.clone() + thread
        };
        let body = std::mem::take(&mut proc.body);
        proc.body = block(body, &moved, None, &place);
    }
    proc
}

/// The same of what the threads of an item have in common, its elements one after another: theirs is one item's at a time, and
/// neighbouring threads access neighbours as they are.
#[must_use]
pub fn bounded_in_common(mut proc: Proc, most: u64, workspaces: &mut Vec<(Dtype, Ix)>) -> Proc {
    let [Stmt::For { var: item, .. }] = proc.body[..] else {
        return proc;
    };
    let count = proc.items.clone();
    let moved = move_largest(&mut proc, Role::Exchange, most, &count, workspaces);
    if moved.iter().any(Option::is_some) {
        let place = |ix: Ix, len: i64, _| Ix::Var(item) * Ix::Const(len) + ix;
        let body = std::mem::take(&mut proc.body);
        proc.body = block(body, &moved, None, &place);
    }
    proc
}

/// Makes workspaces of the largest buffers of a role, until the rest is no more than `most` bytes: by buffer, how many elements
/// it had if it is one.
fn move_largest(
    proc: &mut Proc,
    role: Role,
    most: u64,
    count: &Ix,
    workspaces: &mut Vec<(Dtype, Ix)>,
) -> Vec<Option<i64>> {
    let mut own: Vec<(u64, usize, i64)> = Vec::new();
    for (i, buffer) in proc.buffers.iter().enumerate() {
        if let (true, Ix::Const(len)) = (buffer.role == role, &buffer.len) {
            own.push((len.unsigned_abs() * buffer.dtype.bytes() as u64, i, *len));
        }
    }
    own.sort_unstable();
    let mut left: u64 = own.iter().map(|(bytes, ..)| bytes).sum();
    let mut moved = vec![None; proc.buffers.len()];
    while left > most
        && let Some((bytes, i, len)) = own.pop()
    {
        left -= bytes;
        let buffer = &mut proc.buffers[i];
        moved[i] = Some(len);
        buffer.len = buffer.len.clone() * count.clone();
        buffer.role = Role::Workspace(workspaces.len() as u32);
        workspaces.push((buffer.dtype, buffer.len.clone()));
    }
    moved
}

/// Where an element of a buffer lies, which had so many, for a lane.
type Place<'a> = &'a dyn Fn(Ix, i64, Option<Var>) -> Ix;

fn block(body: Vec<Stmt>, moved: &[Option<i64>], lane: Option<Var>, place: Place<'_>) -> Vec<Stmt> {
    let of = |buf: Buf| moved[buf.0 as usize];
    let place_in = |stmt: Stmt| match (of_stmt(&stmt).and_then(of), stmt) {
        (Some(len), Stmt::Set(reg, Rhs::Load(buf, ix))) => {
            Stmt::Set(reg, Rhs::Load(buf, place(ix, len, lane)))
        }
        (Some(len), Stmt::Store(buf, ix, reg)) => Stmt::Store(buf, place(ix, len, lane), reg),
        (_, stmt) => {
            let lane = match stmt {
                Stmt::For {
                    var,
                    kind: LoopKind::Lane(_),
                    ..
                } => Some(var),
                _ => lane,
            };
            stmt.map_blocks(|body| block(body, moved, lane, place))
        }
    };
    body.into_iter().map(place_in).collect()
}

/// The buffer that a statement loads from or stores to.
fn of_stmt(stmt: &Stmt) -> Option<Buf> {
    match stmt {
        Stmt::Set(_, Rhs::Load(buf, _)) | Stmt::Store(buf, ..) => Some(*buf),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Ty;
    use crate::loop_ir::{BufferDecl, Reg};
    use crate::sample::{empty, extent, for_};

    #[test]
    fn the_largest_go_until_the_rest_fits() {
        let mut p = empty(extent(1));
        for (name, len) in [("a", 8), ("b", 100), ("c", 50)] {
            p.buffers.push(BufferDecl {
                name: name.into(),
                role: Role::Scratch,
                dtype: Dtype::F32,
                len: Ix::Const(len),
            });
        }
        p.regs = vec![Ty::F32];
        let (item, n) = (p.var("item"), p.var("n"));
        let each = vec![
            Stmt::Set(Reg(0), Rhs::Load(Buf(1), Ix::Var(n) + Ix::Const(1))),
            Stmt::Store(Buf(2), Ix::Var(n), Reg(0)),
            Stmt::Store(Buf(0), Ix::Const(3), Reg(0)),
        ];
        let nest = for_(n, LoopKind::Serial, 0, 8, each);
        p.body = vec![for_(item, LoopKind::Core, 0, extent(1), vec![nest])];
        let moved = |most: u64| {
            let mut workspaces = vec![(Dtype::F64, Ix::Const(1))];
            let text = bounded(p.clone(), most, &mut workspaces).to_string();
            (text, workspaces.len() - 1)
        };
        assert_eq!(moved(632), (p.to_string(), 0));
        let (text, count) = moved(631);
        assert_eq!(count, 1);
        assert!(text.contains("workspace b: f32[100*D]"), "{text}");
        assert!(text.contains("r0: f32 = b[(n + 1)*D + item]"), "{text}");
        assert!(
            text.contains("scratch c: f32[50]\n") && text.contains(" c[n] = r0"),
            "{text}"
        );
        assert_eq!(moved(231).1, 2);
        let (text, count) = moved(31);
        assert_eq!(count, 3);
        assert!(text.contains(" a[3*D + item] = r0"), "{text}");
    }

    /// What the threads of an item have in common lies item after item.
    #[test]
    fn what_is_in_common_is_an_items() {
        let mut p = empty(extent(1));
        p.buffers.push(BufferDecl {
            name: "a".into(),
            role: Role::Exchange,
            dtype: Dtype::F32,
            len: Ix::Const(8),
        });
        p.regs = vec![Ty::F32];
        let (item, lane) = (p.var("item"), p.var("lane"));
        let each = vec![
            Stmt::Set(Reg(0), Rhs::Const(1.0)),
            Stmt::Store(Buf(0), lane.into(), Reg(0)),
        ];
        let lanes = for_(lane, LoopKind::Lane(8), 0, 8, each);
        p.body = vec![for_(item, LoopKind::Core, 0, extent(1), vec![lanes])];
        let moved = |most: u64| bounded_in_common(p.clone(), most, &mut Vec::new()).to_string();
        assert_eq!(moved(32), p.to_string());
        let text = moved(31);
        assert!(text.contains("workspace a: f32[8*D]"), "{text}");
        assert!(text.contains("a[item*8 + lane] = r0"), "{text}");
    }
}
