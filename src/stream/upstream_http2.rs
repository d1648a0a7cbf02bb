//! bolt requests over an HTTP/2 upstream.
use crate::cluster::{Cluster, Host, State};
use crate::message::{Failure, Reason};
use crate::protocol::rpc::Frame;
use std::rc::Rc;
use tokio::time::Instant;

/// Sends one bolt request over HTTP/2 and gives the answer as a bolt frame.
pub async fn call(
    _frame: &Frame,
    _oneway: bool,
    _host: &Rc<Host>,
    _cluster: &Rc<Cluster>,
    _state: &Rc<State>,
    _deadline: Option<Instant>,
) -> Result<Option<Frame>, Failure> {
    Err(Failure::before(Reason::Conversion))
}
