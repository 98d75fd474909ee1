//! Tenants: what production work may take in sum, and what it takes. All but the quota is derived.

use proto::{JobId, Resources};

use super::State;
use super::breaks::{Break, broken};
use super::command::{Done, Refusal, RefusalKind, Reply};
use super::config::TaskConfig;
use super::touch::{Key, Touch};
use super::work::Rest;
use crate::limits::ROLES_WITH_QUOTA_MAX;

/// One tenant. It is known while it has a quota or live tasks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Role {
    /// What its production tasks may take; `None` = it was never given any, which is none.
    pub quota: Option<Resources>,
    pub(crate) charged: Resources,
    pub(crate) dedicated: Resources,
    pub(crate) other: Resources,
    pub(crate) used: Resources,
    pub(crate) tasks: u32,
}

impl Role {
    /// What its live production tasks take, wherever they are; those on dedicated hosts apart.
    pub fn charged(&self) -> Resources {
        self.charged
    }

    /// What its live production tasks on dedicated hosts take; not charged.
    pub fn production_dedicated(&self) -> Resources {
        self.dedicated
    }

    /// What its live tasks of other tiers take; not charged.
    pub fn other(&self) -> Resources {
        self.other
    }

    /// What its tasks on hosts take, of any tier.
    pub fn used(&self) -> Resources {
        self.used
    }

    /// The account on which a task is booked.
    fn account(&mut self, config: &TaskConfig) -> &mut Resources {
        if config.is_charged() {
            &mut self.charged
        } else if config.is_production() {
            &mut self.dedicated
        } else {
            &mut self.other
        }
    }

    fn is_needed(&self) -> bool {
        self.quota.is_some() || self.tasks > 0
    }
}

/// In words, by how much `wanted` is more than `room`; `None` when it fits.
pub(crate) fn shortfall(wanted: Resources, room: Resources) -> Option<String> {
    use proto::resources::{cores, mib};
    let parts = [
        ("cpu", wanted.cpu_milli, room.cpu_milli, cores as fn(u64) -> String),
        ("ram", wanted.ram_mib, room.ram_mib, mib),
        ("disk", wanted.disk_mib, room.disk_mib, mib),
        ("gpu", wanted.gpus, room.gpus, |n| n.to_string()),
    ];
    let short: Vec<String> = parts
        .into_iter()
        .filter(|(_, wanted, room, _)| wanted > room)
        .map(|(what, wanted, room, words)| format!("{} {what}", words(wanted - room)))
        .collect();
    (!short.is_empty()).then(|| short.join(" and "))
}

impl State {
    /// A tenant, while it has a quota or live tasks.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    /// All tenants that have a quota or live tasks, by name.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &Role)> {
        self.roles.iter().map(|(name, role)| (&**name, role))
    }

    /// What may still be charged to the role without another question: for instances that work items make, updates
    /// in flight, and cron jobs that do not run.
    pub fn promised(&self, role: &str) -> Resources {
        let making = self.work.values().filter_map(|work| self.jobs.get(&work.job()?));
        let making = making.filter(|job| job.key().role == role);
        let made = making.fold(Resources::default(), |sum, job| sum.plus(self.still_made(job.id())));
        made.plus(self.promised_to_updates(role)).plus(self.promised_to_crons(role))
    }

    /// What the quota of a role must have room for: what is charged and what is promised.
    pub fn taken(&self, role: &str) -> Resources {
        let charged = self.roles.get(role).map(|role| role.charged).unwrap_or_default();
        charged.plus(self.promised(role))
    }

    /// Instances of a job that its work item will still make; a job has one at most.
    pub fn still_to_make(&self, job: JobId) -> u32 {
        let still = self.work.values().filter_map(|work| match work.rest {
            Rest::Create { job: made, next, end } if made == job => Some(end - next),
            Rest::Create { .. } | Rest::Stop { .. } | Rest::Drain { .. } | Rest::Renew { .. } => None,
        });
        still.sum()
    }

    /// What these will charge.
    pub(super) fn still_made(&self, job: JobId) -> Resources {
        let config = self.jobs.get(&job).map(|job| job.config().charge()).unwrap_or_default();
        config.times(self.still_to_make(job))
    }

    /// Whether the role's quota has room for so many more tasks; the refusal says by how much it is short.
    pub fn check_quota(&self, config: &TaskConfig, instances: u32) -> Result<(), Refusal> {
        if !config.is_charged() {
            return Ok(());
        }
        let wanted = config.asked.times(instances);
        self.check_charge(config, wanted, &format!("{wanted} for {instances} more production tasks"))
    }

    /// Whether the role's quota has room for `more`; `what` says in words what needs it.
    pub(super) fn check_charge(
        &self,
        config: &TaskConfig,
        more: Resources,
        what: &str,
    ) -> Result<(), Refusal> {
        let name = &config.job.role;
        let role = self.roles.get(name.as_str()).copied().unwrap_or_default();
        let quota = role.quota.unwrap_or_default();
        let taken = self.taken(name);
        let Some(short) = shortfall(taken.plus(more), quota) else { return Ok(()) };
        let had = match role.quota {
            None => format!("role {name} has no quota"),
            Some(quota) => format!("role {name} has a quota of {quota} and takes {taken} of it"),
        };
        Err(Refusal::new(
            RefusalKind::Quota,
            format!(
                "job {} needs {what}, but {had}: it is short of {short}; ask for more quota, or use tier preemptible",
                config.job
            ),
        ))
    }

    pub(super) fn set_quota(
        &mut self,
        name: &str,
        quota: Resources,
        increment: bool,
        touch: &mut Touch,
    ) -> Reply {
        proto::job_key::check_part("role", name)
            .map_err(|bad| Refusal::new(RefusalKind::Invalid, bad.to_string()))?;
        let known = self.roles.get(name).copied().unwrap_or_default();
        let with_quota = || self.roles.values().filter(|role| role.quota.is_some()).count();
        if known.quota.is_none() && with_quota() >= ROLES_WITH_QUOTA_MAX {
            return Err(Refusal::new(
                RefusalKind::Limit,
                format!("{ROLES_WITH_QUOTA_MAX} roles have a quota; the cluster takes no more"),
            ));
        }
        let quota = if increment { known.quota.unwrap_or_default().plus(quota) } else { quota };
        let most = [quota.cpu_milli, quota.ram_mib, quota.disk_mib, quota.gpus].into_iter().max();
        if most > Some(proto::resources::AMOUNT_MAX) {
            return Err(Refusal::new(RefusalKind::Invalid, format!("{quota} is more than any cluster has")));
        }
        let taken = self.taken(name);
        if let Some(short) = shortfall(taken, quota) {
            return Err(Refusal::new(
                RefusalKind::Quota,
                format!(
                    "role {name} takes {taken} already: a quota of {quota} would be short of {short}; kill production tasks first"
                ),
            ));
        }
        let role = self.roles.entry(name.into()).or_default();
        // No quota and a quota of nothing are the same.
        role.quota = (quota != Resources::default()).then_some(quota);
        if !role.is_needed() {
            self.roles.remove(name);
        }
        touch.row(Key::Role(name.into()));
        Ok(Done::default())
    }

    /// A task lives: its role is charged.
    pub(super) fn charge(&mut self, config: &TaskConfig) {
        let role = self.role_of(config);
        let account = role.account(config);
        *account = account.plus(config.asked);
        role.tasks += 1;
    }

    /// A task has ended.
    pub(super) fn discharge(&mut self, config: &TaskConfig) {
        if broken(Break::ChargeKept) {
            return;
        }
        let role = self.role_of(config);
        let account = role.account(config);
        *account = account.minus_or_zero(config.asked);
        role.tasks -= 1;
        if !role.is_needed() {
            self.roles.remove(config.job.role.as_str());
        }
    }

    /// The role of a config, made where it is missing.
    pub(super) fn role_of(&mut self, config: &TaskConfig) -> &mut Role {
        let name = config.job.role.as_str();
        if !self.roles.contains_key(name) {
            self.roles.insert(name.into(), Role::default());
        }
        self.roles.get_mut(name).expect("made above")
    }
}
