//! Plans by the interpreter: what the loops of a case mean.

use std::collections::BTreeMap;

use selscan_codegen::interp::{Memory, interp};
use selscan_codegen::loop_ir::Role;
use selscan_codegen::{Options, Plan, lower};
use selscan_dsl::{Array, AxisId, Extents, InputId, Inputs, Outputs, Recurrence, Scan, StateId};

use crate::run::{array, extents_of};

/// The stages of a recurrence one after another, each by the loops of its plan; outputs are poisoned before.
pub fn interpret(
    rec: &Recurrence,
    scans: &[Scan],
    plans: &[Plan],
    extents: &Extents,
    options: &Options,
    inputs: &Inputs,
) -> Result<Outputs, String> {
    let boundaries: BTreeMap<String, Array> = match &inputs.seq_idx {
        Some(seq_idx) => rec
            .specialize(&|name| inputs.has(name))
            .boundary_inputs(seq_idx)
            .into_iter()
            .collect(),
        None => BTreeMap::new(),
    };
    let mut between: BTreeMap<String, Array> = BTreeMap::new();
    let mut out = Outputs::default();
    for (scan, plan) in scans.iter().zip(plans) {
        let stage = &scan.recurrence;
        let own = extents_of(rec, extents, scan);
        let ix: Vec<i64> = own.0.iter().map(|&n| n as i64).collect();
        let poison = |axes: &[AxisId], complex: bool| {
            let len: usize = own.shape(axes).iter().product();
            vec![f64::NAN; if complex { 2 * len } else { len }]
        };
        let mut memory = Memory::new();
        for (i, decl) in stage.inputs.iter().enumerate() {
            let array = inputs
                .tensors
                .get(&decl.name)
                .or_else(|| boundaries.get(&decl.name))
                .or_else(|| between.get(&decl.name));
            let array = array.ok_or_else(|| format!("stage input {} is not there", decl.name))?;
            memory.set(
                Role::Input(InputId(i as u32)),
                options.dtype(&decl.name),
                &array.data,
            );
        }
        for (i, decl) in stage.states.iter().enumerate() {
            if let Some(array) = inputs.initial.get(&decl.name) {
                memory.set(
                    Role::Initial(StateId(i as u32)),
                    options.dtype(&decl.name),
                    &array.data,
                );
            }
            memory.set(
                Role::Last(StateId(i as u32)),
                options.dtype(&decl.name),
                &poison(&decl.axes, decl.complex),
            );
        }
        for (i, decl) in stage.outputs.iter().enumerate() {
            memory.set(
                Role::Output(i as u32),
                options.dtype(&decl.name),
                &poison(&decl.axes, decl.complex),
            );
        }
        for (i, (dtype, len)) in plan.workspaces.iter().enumerate() {
            let len = len
                .eval(&|_| 0, &|a| ix[a.0 as usize])
                .ok_or("workspace length")?;
            memory.set(
                Role::Workspace(i as u32),
                *dtype,
                &vec![f64::NAN; len as usize],
            );
        }
        let program = lower(plan);
        interp(&program, &mut memory, &ix).map_err(|e| e.to_string())?;
        for (i, decl) in stage.outputs.iter().enumerate() {
            let values = memory
                .get(Role::Output(i as u32), options.dtype(&decl.name))
                .ok_or("output")?;
            let array = array(decl.complex, &own.shape(&decl.axes), values);
            let last_stage = rec.outputs.iter().any(|o| o.name == decl.name);
            if last_stage {
                out.tensors.insert(decl.name.clone(), array)
            } else {
                between.insert(decl.name.clone(), array)
            };
        }
        for (i, decl) in stage.states.iter().enumerate() {
            let values = memory
                .get(Role::Last(StateId(i as u32)), options.dtype(&decl.name))
                .ok_or("state")?;
            let array = array(decl.complex, &own.shape(&decl.axes), values);
            out.last.insert(decl.name.clone(), array);
        }
    }
    Ok(out)
}
