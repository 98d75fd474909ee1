//! The one door: `apply` is an exhaustive match. Each op first checks and may refuse, then changes and cannot fail.

use super::State;
use super::command::{Applied, Command, Op, Refusal, RefusalKind, Reply};
use super::request::Known;
use super::touch::{Key, Touch};

impl State {
    /// Carries out one command. The same on every replica: it reads State and the command, nothing else.
    pub fn apply(&mut self, command: Command) -> Applied {
        let mut touch = Touch::default();
        let reply = self.carry_out(command, &mut touch);
        let (changed, hints) = touch.settle(self);
        Applied { reply, changed, hints }
    }

    fn carry_out(&mut self, command: Command, touch: &mut Touch) -> Reply {
        let Command { level, at, request, op } = command;
        let (acts_at, needs) = (self.cluster.level, level.max(op.level()));
        if needs > acts_at && !matches!(op, Op::RaiseLevel { .. }) {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!(
                    "the command counts on what is done from level {needs} on; this cluster acts at level {acts_at}"
                ),
            ));
        }
        if let Op::StartSession(session) = op {
            return self.start_session(at, session, touch);
        }
        self.check_clock(at)?;
        self.cluster.clock = self.cluster.clock.max(at);
        touch.row(Key::Cluster);
        let Some(request) = request else { return self.carry_out_op(op, "", touch) };
        match self.look_up_request(&request) {
            Known::Answered(reply) => reply,
            Known::Refused(refusal) => Err(refusal),
            Known::New => {
                let reply = self.carry_out_op(op, &request.identity, touch);
                self.remember(request, &reply, touch);
                reply
            }
        }
    }

    fn carry_out_op(&mut self, op: Op, identity: &str, touch: &mut Touch) -> Reply {
        match op {
            Op::StartSession(_) => {
                Err(Refusal::new(RefusalKind::Invalid, "a session is not started by request"))
            }
            Op::CreateJob(spec) => self.create_job(spec, touch),
            Op::KillTasks { job, instances, message } => {
                self.kill_tasks(&job, instances, &message, identity, touch)
            }
            Op::RegisterHost { identity, spec, held } => self.register_host(identity, spec, &held, touch),
            Op::Assign(assign) => self.assign(assign, touch),
            Op::ApplyReports { host, journal, reports } => self.apply_reports(host, &journal, reports, touch),
            Op::Silence { host, since } => self.silence(host, since, touch),
            Op::Tick => self.tick(touch),
            Op::AdvanceWork(work) => self.advance_work(work, touch),
            Op::Freeze { frozen } => self.freeze(frozen, touch),
            Op::Resume => self.resume(touch),
            Op::RestartTasks { job, instances, message } => {
                self.restart_tasks(&job, instances, &message, identity, touch)
            }
            Op::AddInstances { job, like, count } => self.add_instances(&job, like, count, touch),
            Op::SetQuota { role, quota, increment } => self.set_quota(&role, quota, increment, touch),
            Op::DrainHosts { hosts, message } => self.drain_hosts(hosts, &message, identity, touch),
            Op::ActivateHosts { hosts } => self.activate_hosts(hosts, touch),
            Op::Preempt(preempt) => self.preempt(preempt, touch),
            Op::AssignTogether(assigns) => self.assign_together(assigns, touch),
            Op::ReportUnused { host, unused } => self.report_unused(host, unused, touch),
            Op::StartUpdate(spec) => self.start_update(spec, touch),
            Op::UpdateInstances { job, instances } => self.update_instances(&job, instances, identity, touch),
            Op::EndUpdate { job } => self.end_update(&job, touch),
            Op::PutCron { spec, schedule } => self.put_cron(spec, &schedule, touch),
            Op::DropCron { job } => self.drop_cron(&job, touch),
            Op::RunCron { job } => self.run_cron(&job, touch),
            Op::RaiseLevel { to } => self.raise_level(to, touch),
            Op::SetClock { to } => self.set_clock(to, touch),
        }
    }
}
