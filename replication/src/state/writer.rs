//! The thread that makes rows of what apply did: takes cuts, writes them, flushes, and says what is stored.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::error::StoreError;
use crate::ground;
use crate::log::lock;
use crate::membership::Fingerprint;
use crate::state::cut::{Cut, Pending, Point};
use crate::state::rows::RowStore;
use crate::telemetry;

/// Between two cuts when little happens.
const CUT_EVERY_IDLE: Duration = Duration::from_millis(250);
/// Between two cuts under load, so that rows that change often are written once.
const CUT_EVERY_BUSY: Duration = Duration::from_secs(2);
/// A cut of more rows means load.
const BUSY_ROWS: usize = 5_000;
/// Between two flushes at most, if anything was written.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// And at most so much log to replay after a restart.
const FLUSH_LOG_BYTES: u64 = 64 << 20;
/// Sums that are remembered.
const SUMS_MAX: usize = 64;
const ORDERS_MAX: usize = 64;

enum Order {
    /// Some time has passed: cut if it is time.
    Tick,
    /// Cut now: a sum is waited for.
    Nudge,
    /// Cut, flush, and copy the rows to this new directory.
    Checkpoint(PathBuf, oneshot::Sender<Result<Copied, StoreError>>),
    /// Close the rows.
    Release(oneshot::Sender<()>),
    /// Go on with these.
    Resume(Box<RowStore>, Point),
    /// Cut, flush, close, end.
    Stop(oneshot::Sender<()>),
}

/// What a copy of the rows is of.
pub(crate) struct Copied {
    pub(crate) at: Point,
    /// How many rows.
    pub(crate) rows: u64,
    /// The sum of their hashes.
    pub(crate) sum: u64,
}

/// A handle of the thread.
#[derive(Clone)]
pub(crate) struct RowWriter {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

struct Shared {
    stored: watch::Sender<Option<crate::raft::LogId>>,
    sums: Mutex<VecDeque<Fingerprint>>,
    newest_sum: watch::Sender<Option<u64>>,
}

struct Thread {
    rows: Option<RowStore>,
    pending: Arc<Pending>,
    shared: Arc<Shared>,
    written: Point,
    unflushed: bool,
    unflushed_log_bytes: u64,
    flushed_at: Instant,
    cut_at: Instant,
    last_cut_rows: usize,
}

impl RowWriter {
    /// Starts the thread; `failed` is told when the rows cannot be written any more.
    pub(crate) fn start(
        rows: RowStore,
        at: Point,
        pending: Arc<Pending>,
        failed: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            stored: watch::Sender::new(at.applied),
            sums: Mutex::new(VecDeque::new()),
            newest_sum: watch::Sender::new(None),
        });
        let path = rows.path.clone();
        let thread = Thread {
            rows: Some(rows),
            pending,
            shared: Arc::clone(&shared),
            written: at,
            unflushed: false,
            unflushed_log_bytes: 0,
            flushed_at: Instant::now(),
            cut_at: Instant::now(),
            last_cut_rows: 0,
        };
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let work = async move {
            if let Err(error) = thread.run(waiting).await {
                tracing::error!("rows cannot be written: {error}");
                failed(error.to_string());
            }
        };
        ground::thread("row-writer", work).map_err(StoreError::io("starting a thread for", path))?;
        ground::spawn(tick(orders.downgrade()));
        Ok(RowWriter { orders, shared })
    }

    /// The point up to which rows are flushed and synced.
    pub(crate) fn stored(&self) -> Option<crate::raft::LogId> {
        *self.shared.stored.borrow()
    }

    /// A cut for a sum waits.
    pub(crate) fn nudge(&self) {
        match self.orders.try_send(Order::Nudge) {
            // A full queue wakes the thread too.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
        }
    }

    pub(crate) fn sums(&self) -> Vec<Fingerprint> {
        lock(&self.shared.sums).iter().copied().collect()
    }

    pub(crate) fn newest_sum(&self) -> watch::Receiver<Option<u64>> {
        self.shared.newest_sum.subscribe()
    }

    /// Stores all that is applied and copies the rows to `to`, which must not exist.
    pub(crate) async fn checkpoint(&self, to: PathBuf) -> Result<Copied, StoreError> {
        let path = to.clone();
        self.ask(move |done| Order::Checkpoint(to, done), path).await?
    }

    /// Closes the rows: a snapshot is about to replace them.
    pub(crate) async fn release(&self, path: PathBuf) -> Result<(), StoreError> {
        self.ask(Order::Release, path).await
    }

    /// Goes on with replaced rows, which are stored up to `at` from now on.
    pub(crate) async fn resume(&self, rows: RowStore, at: Point) {
        self.shared.stored.send_replace(at.applied);
        let _ = self.orders.send(Order::Resume(Box::new(rows), at)).await;
    }

    /// Stores all that is applied and ends.
    pub(crate) async fn stop(&self, path: PathBuf) {
        let _ = self.ask(Order::Stop, path).await;
    }

    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
        path: PathBuf,
    ) -> Result<T, StoreError> {
        let (done, answer) = oneshot::channel();
        let ended = || StoreError::Rows { path, problem: "the writer of rows has ended".into() };
        if self.orders.send(order(done)).await.is_err() {
            return Err(ended());
        }
        answer.await.map_err(|_| ended())
    }
}

/// Tells the thread, which has no clock, that time has passed; ends when the last handle is gone.
async fn tick(orders: mpsc::WeakSender<Order>) {
    loop {
        tokio::time::sleep(CUT_EVERY_IDLE).await;
        let Some(orders) = orders.upgrade() else { return };
        if let Err(TrySendError::Closed(_)) = orders.try_send(Order::Tick) {
            return;
        }
    }
}

impl Thread {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<(), StoreError> {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Tick => {
                    if self.last_cut_rows > BUSY_ROWS && self.cut_at.elapsed() < CUT_EVERY_BUSY {
                        continue;
                    }
                }
                Order::Nudge => {}
                Order::Checkpoint(to, done) => {
                    let copied = self.checkpoint(&to).await;
                    let _ = done.send(copied);
                }
                Order::Release(done) => {
                    self.rows = None;
                    let _ = done.send(());
                    continue;
                }
                Order::Resume(rows, at) => {
                    self.rows = Some(*rows);
                    self.unflushed = false;
                    self.unflushed_log_bytes = 0;
                    self.flushed_at = Instant::now();
                    self.written = at;
                }
                Order::Stop(done) => {
                    let stored = match self.cut_all() {
                        Ok(()) => self.flush().await,
                        failed => failed,
                    };
                    self.rows = None;
                    let _ = done.send(());
                    return stored;
                }
            }
            self.cut_all()?;
            self.cut_at = Instant::now();
            let due = self.flushed_at.elapsed() >= FLUSH_EVERY || self.unflushed_log_bytes >= FLUSH_LOG_BYTES;
            if self.unflushed && due {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn cut_all(&mut self) -> Result<(), StoreError> {
        let Some(rows) = &mut self.rows else { return Ok(()) };
        let mut count = 0;
        // New cuts may come while these are written; the next round takes them.
        for _ in 0..32 {
            let Some(cut) = self.pending.next_cut() else { break };
            let began = Instant::now();
            let sum = rows.write(&cut)?;
            telemetry::cut(began.elapsed());
            let Cut { at, rows: changed, check, log_bytes } = cut;
            if check {
                let found = Fingerprint { index: at.index(), sum: sum.to_be_bytes() };
                let mut sums = lock(&self.shared.sums);
                if sums.len() == SUMS_MAX {
                    sums.pop_front();
                }
                sums.push_back(found);
                drop(sums);
                self.shared.newest_sum.send_replace(Some(found.index));
            }
            count += changed.len();
            self.written = at;
            self.unflushed = true;
            self.unflushed_log_bytes += log_bytes;
        }
        self.last_cut_rows = count;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let Some(rows) = &self.rows else { return Ok(()) };
        if self.unflushed {
            let began = Instant::now();
            ground::before_sync().await;
            rows.flush()?;
            telemetry::flushed(began.elapsed(), self.written.index());
            self.unflushed = false;
            self.unflushed_log_bytes = 0;
            self.shared.stored.send_replace(self.written.applied);
        }
        self.flushed_at = Instant::now();
        Ok(())
    }

    async fn checkpoint(&mut self, to: &std::path::Path) -> Result<Copied, StoreError> {
        self.cut_all()?;
        self.flush().await?;
        let Some(rows) = &self.rows else {
            return Err(StoreError::Rows { path: to.to_owned(), problem: "they are closed".into() });
        };
        rows.checkpoint(to)?;
        let (rows, sum) = rows.summed();
        Ok(Copied { at: self.written.clone(), rows, sum })
    }
}
