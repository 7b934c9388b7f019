"""What takes longer than a request. Celery finds the tasks here (see celery.py)."""

from .onboarding import onboard
from .orders import Approval, Order, process_order
from .reports import report_sales
from .trials import follow_up_trial

__all__ = ["Approval", "Order", "follow_up_trial", "onboard", "process_order", "report_sales"]
