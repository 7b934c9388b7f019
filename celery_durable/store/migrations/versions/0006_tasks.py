"""Indexes by which the runs of a status, and of one task, are found and counted without reading a row of them."""

from alembic import context, op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    prefix = context.config.attributes["prefix"]
    places = ["created_at", "id", "kind"]
    op.drop_index(f"ix_{prefix}run_status", table_name=f"{prefix}run")
    op.create_index(f"ix_{prefix}run_status", f"{prefix}run", ["status", *places])
    op.create_index(f"ix_{prefix}run_task", f"{prefix}run", ["task", "status", *places])
