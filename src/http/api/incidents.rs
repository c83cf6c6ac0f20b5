//! Incidents. A purge of their details never makes a request for them fail.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::organization::exists;
use crate::{
    drift::incidents::{self, Approval, Incident, IncidentFilter, Payload, PayloadState},
    http::{
        ApiState, Identity, Problem,
        extract::{Path, Query, bounded_text},
    },
    ids::OrgId,
};

/// The filter and the page of a list of incidents.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only incidents in this status.
    #[param(
        max_length = 100,
        pattern = "^[^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]*$"
    )]
    status: Option<String>,
    /// The most incidents to return.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: u32,
    /// `next_cursor` of the previous page.
    cursor: Option<Uuid>,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self {
            status: None,
            limit: 50,
            cursor: None,
        }
    }
}

/// A page of incidents, newest first. It is shorter than the limit if its texts would exceed the size of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IncidentPage {
    items: Vec<Incident>,
    next_cursor: Option<Uuid>,
}

/// An incident with the details that are available.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IncidentDetail {
    #[serde(flatten)]
    incident: Incident,
    /// The payload. Absent if it is purged, missing or too large: `payload_state` says which. A payload that JSON
    /// parsers cannot read (a number such as `1e400`, or a nesting of more than 127) is returned as a string.
    #[serde(skip_serializing_if = "Option::is_none")]
    drift_summary: Option<serde_json::Value>,
    /// The approvals that are still kept, oldest first, as many as fit in an answer.
    approvals: Vec<Approval>,
    links: Links,
}

/// Links to related resources.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Links {
    environment: String,
    incidents: String,
    runs: String,
}

/// The organization's incidents, newest first.
#[utoipa::path(get, path = "/orgs/{orgId}/incidents", tag = "drift", params(("orgId" = Uuid, Path), ListQuery),
    operation_id = "list_incidents",
    responses((status = 200, body = IncidentPage), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(state): State<ApiState>,
    identity: Identity,
    Path(org): Path<Uuid>,
    Query(query): Query<ListQuery>,
) -> Result<Json<IncidentPage>, Problem> {
    let org = OrgId(org);
    identity.may_read(org)?;
    let limit = super::limit(query.limit)?;
    let filter = IncidentFilter {
        status: bounded_text("status", query.status, 100)?,
        ..IncidentFilter::default()
    };
    exists(&state, org).await?;
    let items = incidents::list(&state.database, org, &filter, query.cursor, limit + 1).await?;
    let (items, next_cursor) = super::page_of(items, limit, |incident| incident.id);
    Ok(Json(IncidentPage { items, next_cursor }))
}

/// One incident. If its details are missing, the answer says whether they are too large, were purged, or were never
/// recorded.
#[utoipa::path(get, path = "/orgs/{orgId}/incidents/{incidentId}", tag = "drift", operation_id = "show_incident",
    params(("orgId" = Uuid, Path), ("incidentId" = Uuid, Path)),
    responses((status = 200, body = IncidentDetail), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(state): State<ApiState>,
    identity: Identity,
    Path((org, id)): Path<(Uuid, Uuid)>,
) -> Result<Json<IncidentDetail>, Problem> {
    let org = OrgId(org);
    identity.may_read(org)?;
    let mut incident = incidents::get(&state.database, org, id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let drift_summary = match incidents::payload(&state.database, id).await? {
        Some(Payload::Json(payload)) => Some(payload),
        Some(Payload::Text(text)) => Some(text.into()),
        Some(Payload::TooLarge) => {
            incident.payload_state = PayloadState::TooLarge;
            incident.notice = incident.payload_state.notice();
            None
        }
        None => None,
    };
    let approvals = incidents::approvals(&state.database, id).await?;
    let approvals = super::fitting(approvals, super::MAX_LIST_BYTES_BESIDE_PAYLOAD);
    let links = Links {
        environment: format!("/orgs/{org}/environments/{}", incident.env_id),
        incidents: format!("/orgs/{org}/incidents"),
        runs: format!("/orgs/{org}/retention/runs"),
    };
    Ok(Json(IncidentDetail {
        incident,
        drift_summary,
        approvals,
        links,
    }))
}
