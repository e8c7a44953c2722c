//! A stream of snapshots as server-sent events: a whole one at once, and then each as it is made,
//! with what is new of the histories. A listener that is slow gets the newest and not all. Ends
//! with the drain.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::gate::Place;
use super::maker::Made;
use crate::shutdown::Shutdown;

/// Where nothing is made, so that whatever is in between does not take it for dead.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How soon a browser comes back where the stream ended, in ms.
const OPENING: &str = "retry: 2000\n\n";

struct Listener {
    made: watch::Receiver<Arc<Made>>,
    shutdown: Shutdown,
    opened: bool,
    /// When what it was last given was made.
    given: Option<Instant>,
    _place: Place,
}

pub fn stream(mut made: watch::Receiver<Arc<Made>>, shutdown: Shutdown, place: Place) -> Body {
    // The one that is there is news to whoever just came.
    made.mark_changed();
    let listener = Listener { made, shutdown, opened: false, given: None, _place: place };
    Body::from_stream(stream::unfold(listener, |mut listener| async move {
        let bytes = listener.next().await?;
        Some((Ok::<_, Infallible>(bytes), listener))
    }))
}

impl Listener {
    /// `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if !std::mem::replace(&mut self.opened, true) {
            return Some(Bytes::from_static(OPENING.as_bytes()));
        }
        let (made, given) = (&mut self.made, &mut self.given);
        let next = async {
            loop {
                match timeout(HEARTBEAT, made.changed()).await {
                    Err(_) => return Some(Bytes::from_static(b": still here\n\n")),
                    // Nobody makes any more.
                    Ok(Err(_)) => return None,
                    Ok(Ok(())) => {}
                }
                // Out of the lock: others want it while this one writes its forms.
                let newest = made.borrow_and_update().clone();
                // `None`: nothing has been made yet.
                if let Some((at, event)) = newest.event(*given) {
                    *given = Some(at);
                    return Some(event);
                }
            }
        };
        self.shutdown.run_until_drain(next).await.flatten()
    }
}
