"""The Django site: signing up, the link of the mail, and the reports of the staff."""

from __future__ import annotations

import uuid

from django import forms
from django.contrib.auth.decorators import user_passes_test
from django.core.signing import BadSignature
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.timezone import now
from django.views.decorators.http import require_POST

from celery_durable import Durable, StartConflict
from celery_durable.contrib.django import emit

from .celery import app
from .mails import customer_of
from .models import Customer
from .workflows import onboard, report_sales

durable = Durable(app)
staff_only = user_passes_test(lambda user: user.is_active and user.is_staff)


class SignUp(forms.Form):
    name = forms.CharField(max_length=100)
    email = forms.EmailField()
    # The run's id is in the form: sent twice by a double click, it starts one run.
    run = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)


def sign_up(request: HttpRequest) -> HttpResponse:
    form = SignUp(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            onboard.apply_async((given["email"], given["name"]), task_id=str(given["run"]))
        except StartConflict:
            form = SignUp({**request.POST.dict(), "run": uuid.uuid4()})
            form.add_error(
                None, "This form was sent before, with another name or address. Send it again if you mean it."
            )
        else:
            return redirect("signed-up")
    return render(request, "webshop/sign_up.html", {"form": form})


def signed_up(request: HttpRequest) -> HttpResponse:
    return render(request, "webshop/signed_up.html")


def verify(request: HttpRequest, token: str) -> HttpResponse:
    """A mail program may open a link to look at it, so that what counts is the button on the page."""
    try:
        customer = Customer.objects.get(pk=customer_of(token))
    except (BadSignature, Customer.DoesNotExist):
        return render(request, "webshop/verify.html", {"customer": None}, status=400)
    if request.method == "POST":
        with transaction.atomic():
            Customer.objects.filter(pk=customer.pk, verified_at=None).update(verified_at=now())
            # There if and only if the row is; however often the button is clicked, it is one event.
            key = f"customer:{customer.pk}"
            emit("email.verified", {"customer": customer.pk}, key=key, event_id=f"verified:{customer.pk}")
        return redirect(request.path)
    return render(request, "webshop/verify.html", {"customer": customer})


@staff_only
def reports(request: HttpRequest) -> HttpResponse:
    return render(request, "webshop/reports.html", {"runs": durable.runs(task=report_sales.name, limit=10)})


@staff_only
@require_POST
def new_report(request: HttpRequest) -> HttpResponse:
    report_sales.delay()
    return redirect("reports")
