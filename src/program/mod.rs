//! A program that is run beside: without a shell, in a process group of its own, which is killed as a whole.

pub(crate) mod listen;

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// A running program; dropping it kills it with everything it started.
pub struct Program {
    pub child: Child,
    /// None once it is killed and reaped: the number may then belong to somebody else.
    group: Option<Pid>,
}

impl Program {
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Program> {
        let child = command.process_group(0).spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Program { child, group })
    }

    /// Looks without reaping, so that the number of the group stays taken until the group is killed.
    pub fn has_exited(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.group.is_none_or(|pid| !matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
    }

    /// Ends the whole group, if that was not done before; the status is the program's own if it had exited by itself.
    pub fn kill(&mut self) -> Option<ExitStatus> {
        // A group that is gone already needs no killing.
        let _ = kill_process_group(self.group.take()?, Signal::KILL);
        self.child.wait().ok()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
